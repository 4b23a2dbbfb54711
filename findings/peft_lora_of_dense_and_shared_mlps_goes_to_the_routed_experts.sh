#!/usr/bin/env bash
# peft with transformers 5: in mixture-of-experts models whose files hold one weight per expert (GLM-4.5, DeepSeek-V3
# and more), targets that end in gate_proj, up_proj and down_proj are rewritten to the fused weights of the routed
# experts. Linear layers with these names, the dense first layers and the shared experts, get no adapter, even if a
# path or a regex names nothing but the shared experts, and the routed experts are trained in their place. The only
# warnings are about `rank_pattern` and `alpha_pattern`, which the user has not set. For shared experts by path it is
# known as issue 3711 of peft. What to do: name their weights in `target_parameters`. Exits with 0 while it is so,
# with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    peft==0.21.2 transformers==5.24.0 torch==2.14.1

cat > show.py <<'PROGRAM'
import platform
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, Qwen3Config, Qwen3ForCausalLM

transformers.logging.set_verbosity_error()
warnings.simplefilter('ignore', FutureWarning)
print(f'peft {peft.__version__}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: get_peft_model(model, LoraConfig(target_modules=...))\n')
BASE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16)
MODELS = dict(
    qwen3=lambda: Qwen3ForCausalLM(Qwen3Config(**BASE)),
    glm4_moe=lambda: Glm4MoeForCausalLM(Glm4MoeConfig(  # a dense layer, then one with shared and routed experts
        **BASE, moe_intermediate_size=24, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, pad_token_id=0)))
TARGETS = {'list of names': ['gate_proj', 'up_proj', 'down_proj'],
           'list of paths of the shared experts': [f'shared_experts.{name}_proj' for name in ('gate', 'up', 'down')],
           'regex of the shared experts': r'.*\.shared_experts\.(gate|up|down)_proj'}
WEIGHTS = [f'shared_experts.{name}_proj.weight' for name in ('gate', 'up', 'down')]


def places(names):
    """The modules in which weights are: `layers.1.mlp.experts` and the like."""
    return sorted({name.partition('.mlp.')[0].rpartition('model.')[2] + '.mlp'
                   + ('.' + name.partition('.mlp.')[2].partition('.')[0] if 'experts' in name else '')
                   for name in names})


def adapt(model, **targets):
    adapted = get_peft_model(model, LoraConfig(r=4, **targets))
    return places(name for name, _ in adapted.named_parameters() if '.lora_' in name)


seen = {}
for family, make in MODELS.items():
    for kind, targets in TARGETS.items():
        if family == 'qwen3' and 'shared' in kind:
            continue
        model = make()
        wanted = places(name for name, module in model.named_modules() if isinstance(module, nn.Linear)
                        and '.mlp.' in name and ('shared' not in kind or 'shared' in name))
        seen[family, kind] = adapted = adapt(model, target_modules=targets)
        print(f'{family}, {kind}: linear layers with these names in {wanted}; adapted: {adapted}')
seen['parameters'] = adapt(MODELS['glm4_moe'](), target_modules=[], target_parameters=WEIGHTS)
print(f'glm4_moe, target_parameters={WEIGHTS}: adapted: {seen["parameters"]}')
routed, shared = ['layers.1.mlp.experts'], ['layers.1.mlp.shared_experts']
raise SystemExit(0 if list(seen.values()) == [['layers.0.mlp', 'layers.1.mlp'], routed, routed, routed, shared] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: only the routed experts are adapted'
else
    echo 'changed: the targets reach other layers' >&2
    exit 1
fi
