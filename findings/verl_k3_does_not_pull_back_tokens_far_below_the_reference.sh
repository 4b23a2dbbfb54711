#!/usr/bin/env bash
# verl: the KL penalty k3 (`low_var_kl`, as its examples set it) of a token is clamped at 10, "for numerical stability",
# and has no gradient beyond. So a token whose probability fell below 1/13.6 of the reference's is not pulled back at
# all, while the gradient just before is the largest one; with k2, k3+ and TRL's k3 the pull grows. The value, which is
# logged, tells nothing of it. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   verl 0.9.1, torch 2.14.1, Python 3.11.7
#   gradient to the log-probability of a token, by its share of the reference's probability
#              1/2     1/5    1/13    1/14   1/100
#   k3        -1.0    -4.0   -12.0     0.0     0.0
#   formula   -1.0    -4.0   -12.0   -13.0   -99.0
#   k3+       -0.7    -1.6    -2.6    -2.6    -4.6
#   k2        -0.7    -1.6    -2.6    -2.6    -4.6
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 numpy==2.2.6 packaging==25.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps verl==0.9.1

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

# Without the __init__.py of verl and of its folders, which ask for ray, vllm and more that these formulas do not use.
(path, ) = [Path(file.locate()).parent for file in files('verl') if str(file) == 'verl/protocol.py']
NAMES = {'verl': {}, 'verl.trainer': {}, 'verl.trainer.ppo': {}, 'verl.trainer.config': dict(AlgoConfig=dict),
         'verl.workers': {}, 'verl.workers.config': dict(ActorConfig=dict), 'verl.utils': {},
         'omegaconf': dict(DictConfig=dict), 'tensordict': dict(TensorDict=dict),
         'transformers': dict(PreTrainedTokenizer=object)}
for name, members in NAMES.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__dict__.update(members, __path__=[str(path.parent.joinpath(*name.split('.')))])
groupwise = import_module('verl.utils.groupwise')
sys.modules['verl.utils'].as_torch_index = groupwise.as_torch_index
sys.modules['verl.utils'].group_mean_std = groupwise.group_mean_std
core_algos = import_module('verl.trainer.ppo.core_algos')
print(f'verl {version("verl")}, torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: verl/trainer/ppo/core_algos.py, kl_penalty_forward: torch.clamp(kld, min=-10, max=10)\n')
SHARES = torch.tensor([2., 5, 13, 14, 100])
reference = torch.full((5, ), -0.5)


def gradient(penalty):
    policy = (reference - SHARES.log()).requires_grad_()
    penalty(policy).sum().backward()
    return [round(number, 1) + 0.0 for number in policy.grad.tolist()]


seen = {'k3': gradient(lambda policy: core_algos.kl_penalty(policy, reference, 'low_var_kl')),
        'formula': gradient(lambda policy: (reference - policy).exp() - (reference - policy) - 1),
        'k3+': gradient(lambda policy: core_algos.kl_penalty(policy, reference, 'k3+')),
        'k2': gradient(lambda policy: core_algos.kl_penalty(policy, reference, 'k2'))}
print('gradient to the log-probability of a token, by its share of the reference\'s probability')
print(' ' * 8 + ''.join(f'{f"1/{share:.0f}":>8}' for share in SHARES))
for name, numbers in seen.items():
    print(f'{name:8}' + ''.join(f'{number:8.1f}' for number in numbers))
square = [-0.7, -1.6, -2.6, -2.6, -4.6]
same = seen == {'k3': [-1, -4, -12, 0, 0], 'formula': [-1, -4, -12, -13, -99], 'k3+': square, 'k2': square}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
