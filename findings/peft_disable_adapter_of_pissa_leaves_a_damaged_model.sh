#!/usr/bin/env bash
# peft: `with model.disable_adapter()` ("use this to run inference on the base model", as its docs say) does not give
# the base model for LoraConfig(init_lora_weights='pissa') or 'olora': these take the start of the adapter out of the
# weights of the model, which without it lacks its largest singular values, without a word. TRL's GRPO, RLOO, DPO, and
# KTO trainers take just that for the reference of a LoRA policy, "to revert to the initial model": the KL is not 0
# before the first update, and its penalty pulls the policy to a damaged model. Exits with 0 while it is so, with 1 once
# it is not.
#
# Seen:
#   peft 0.21.2, torch 2.14.1, Python 3.11.7
#   init_lora_weights=True: KL to the model before get_peft_model, with the adapter 0.000, disabled 0.000
#   init_lora_weights='gaussian': KL to the model before get_peft_model, with the adapter 0.000, disabled 0.000
#   init_lora_weights='pissa': KL to the model before get_peft_model, with the adapter 0.000, disabled 0.033
#   init_lora_weights='olora': KL to the model before get_peft_model, with the adapter 0.000, disabled 0.071
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import peft
import torch
from peft import LoraConfig, get_peft_model

print(f'peft {peft.__version__}, torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: peft/peft_model.py, disable_adapter; peft/tuners/lora/layer.py, pissa_init and olora_init\n')


@torch.no_grad()
def divergences(start):
    """KL of the outputs with the adapter, and with it disabled, before any training."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    inputs = torch.randn(32, 16)
    base = network(inputs).log_softmax(-1)
    model = get_peft_model(network, LoraConfig(r=4, target_modules=['0', '2'], init_lora_weights=start))
    outputs = [model(inputs)]
    with model.disable_adapter():
        outputs.append(model(inputs))
    return [float((base.exp() * (base - output.log_softmax(-1))).sum(-1).mean()) for output in outputs]


seen = {start: divergences(start) for start in (True, 'gaussian', 'pissa', 'olora')}
for start, (enabled, disabled) in seen.items():
    print(f'init_lora_weights={start!r}: KL to the model before get_peft_model, '
          f'with the adapter {abs(enabled):.3f}, disabled {abs(disabled):.3f}')
moved = [start for start, (_, disabled) in seen.items() if disabled > 0.01]
same = moved == ['pissa', 'olora'] and all(abs(enabled) < 1e-5 for enabled, _ in seen.values())
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
