#!/usr/bin/env bash
# verl: GRPO's advantage of a group whose rewards are all equal should be 0. In float32 the mean of equal numbers is
# often not that number, and verl divides the error by (standard deviation + 1e-6), which is as small: so with rewards
# that float32 does not hold exactly, such as sums of weighted terms, groups without a signal push all their responses
# up, or all down, by the advantage of a real difference. Which ones do depends on the value and on the size of the
# group. TRL's 1e-4 leaves a hundredth of it. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   verl 0.9.1, torch 2.14.1, Python 3.11.7
#   8 responses of reward 1.0: verl 0.000, with 1e-4 in place of 1e-6 0.0000
#   8 responses of reward 0.7: verl 0.056, with 1e-4 in place of 1e-6 0.0006
#   8 responses of reward 2.1: verl -0.190, with 1e-4 in place of 1e-6 -0.0024
#   8 responses of reward 10.7: verl 0.472, with 1e-4 in place of 1e-6 0.0094
#   12 responses of reward 10.7: verl 0.637, with 1e-4 in place of 1e-6 0.0187
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
print('source: verl/trainer/ppo/core_algos.py, compute_grpo_outcome_advantage(epsilon=1e-6)\n')


def advantage(reward, count, **options):
    rewards = torch.full((count, 1), reward)
    advantages, _ = core_algos.compute_grpo_outcome_advantage(
        rewards, torch.ones(count, 1), np.zeros(count, int), **options)
    assert (advantages == advantages[0]).all()
    return float(advantages[0, 0])


seen = []
for reward, count in ((1.0, 8), (0.7, 8), (2.1, 8), (10.7, 8), (10.7, 12)):
    seen.append((advantage(reward, count), advantage(reward, count, epsilon=1e-4)))
    print(f'{count} responses of reward {reward}: verl {seen[-1][0]:.3f}, with 1e-4 in place of 1e-6 {seen[-1][1]:.4f}')
# How sums are rounded differs between processors.
same = seen[0] == (0, 0) and max(abs(value) for value, _ in seen) > 0.05
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
