#!/usr/bin/env bash
# mmengine: `norm_decay_mult` of paramwise_cfg knows the normalization layers of PyTorch by their class, and RMSNorm is
# not among them, neither PyTorch's own nor those of transformers. So with `norm_decay_mult=0` the norms of Qwen, Llama
# and the like, and the query and key norms of attention, decay as any other weight, without a word, beside LayerNorms
# of the same model that do not. `flat_decay_mult`, for all weights of one dimension, does what was meant. Exits with 0
# while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 transformers==5.24.0 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 \
    opencv-python-headless==4.11.0.86 PyYAML==6.0.2 rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps mmengine==0.10.7

cat > show.py <<'PROGRAM'
import logging
import platform
from importlib.metadata import version

import torch
import transformers
from mmengine.optim import build_optim_wrapper
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen3Config, Qwen3ForCausalLM

logging.disable()  # mmengine lists each parameter that it treats in a way of its own
print(f'mmengine {version("mmengine")}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: DefaultOptimWrapperConstructor.add_params, by build_optim_wrapper(model, dict(optimizer=AdamW with '
      'weight_decay 0.1, paramwise_cfg=dict(...)))\n')
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
model = nn.ModuleDict(dict(
    vision=CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=16, **SMALL)),
    language=Qwen3ForCausalLM(Qwen3Config(num_key_value_heads=2, head_dim=8, vocab_size=64, **SMALL)),
    torch_norm=nn.RMSNorm(32)))
norms = {f'{name}.weight': type(module).__name__ for name, module in model.named_modules()
         if type(module).__name__.endswith('Norm')}


def decays(**paramwise):
    """The kinds of norms that have a weight decay."""
    optimizer = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
                                                paramwise_cfg=paramwise)).optimizer
    decay = {id(weight): group['weight_decay'] for group in optimizer.param_groups for weight in group['params']}
    weights = dict(model.named_parameters())
    seen = {}
    for name, kind in norms.items():
        seen.setdefault(kind, set()).add(decay[id(weights[name])])
    return seen


RMS = {'Qwen3RMSNorm', 'RMSNorm'}
seen = {option: decays(**{option: 0.0}) for option in ('norm_decay_mult', 'flat_decay_mult')}
for option, by_kind in seen.items():
    for kind, values in by_kind.items():
        count = sum(one == kind for one in norms.values())
        print(f'{option}=0: weight decay of {count} {kind:12} {sorted(values)}')
same = (set(seen['norm_decay_mult']) == RMS | {'LayerNorm'}
        and all(values == ({0.1} if kind in RMS else {0.0}) for kind, values in seen['norm_decay_mult'].items())
        and all(values == {0.0} for values in seen['flat_decay_mult'].values()))
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: RMSNorm decays'
else
    echo 'changed: RMSNorm is a normalization layer' >&2
    exit 1
fi
