#!/usr/bin/env bash
# verl: the GPG advantage (adv_estimator: gpg) is scaled by alpha = B / M, where GPG (arXiv 2504.02546) has B / (B - M):
# all responses by those of groups whose rewards differ, so that groups without a signal do not make the step smaller.
# verl takes for M the number of responses whose reward is not 0. So rewards of 0 and 1 make the step larger the fewer
# answers are right, and -1 and 1, or a format reward of 0.1 for all, which leave the differences as they are, switch
# the correction off, without a word. The parameter `alpha` is overwritten. Exits with 0 while it is so, with 1 once it
# is not.
#
# Seen:
#   verl 0.9.1, torch 2.14.1, Python 3.11.7
#   advantage of the one right response of 4, beside a group of 4 without a signal; by the paper 1.50
#   rewards 1 (right) and 0, the other group 0: 6.00
#   rewards 1 (right) and 0, the other group 1: 1.20
#   rewards 1.1 (right) and 0.1, the other group 0.1: 0.75
#   rewards 1 (right) and -1, the other group -1, by half: 0.75
#   rewards 1 (right) and 0, the other group 0, alpha=2: 6.00
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
print('source: verl/trainer/ppo/core_algos.py, compute_gpg_outcome_advantage\n')


def advantage(right, wrong, other, **options):
    """Of the one right response of a group of 4, beside a group of 4 whose rewards are all equal to `other`."""
    rewards = torch.tensor([right, wrong, wrong, wrong] + [other] * 4)[:, None]
    groups = np.array(['mixed'] * 4 + ['equal'] * 4)
    advantages, _ = core_algos.compute_gpg_outcome_advantage(rewards, torch.ones(8, 1), groups, **options)
    return round(float(advantages[0, 0]), 2)


# 8 responses, 4 of which have a signal; r - mean is 0.75 for the right one.
paper = 8 / 4 * 0.75
print(f'advantage of the one right response of 4, beside a group of 4 without a signal; by the paper {paper:.2f}')
seen = {'rewards 1 (right) and 0, the other group 0': advantage(1., 0., 0.),
        'rewards 1 (right) and 0, the other group 1': advantage(1., 0., 1.),
        'rewards 1.1 (right) and 0.1, the other group 0.1': advantage(1.1, 0.1, 0.1),
        'rewards 1 (right) and -1, the other group -1, by half': advantage(1., -1., -1.) / 2,
        'rewards 1 (right) and 0, the other group 0, alpha=2': advantage(1., 0., 0., alpha=2.0)}
for name, value in seen.items():
    print(f'{name}: {value:.2f}')
same = list(seen.values()) == [6, 1.2, 0.75, 0.75, 6]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
