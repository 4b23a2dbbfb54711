#!/usr/bin/env bash
# verl: GDPO and REINFORCE++ with baseline subtract the mean of each group, and then normalize over the batch. A group
# whose rewards are all equal has no signal, and over the responses of the batch (GDPO, arXiv 2601.05242) it keeps the
# advantage 0, as the mean of every group is 0. verl normalizes over tokens, whose mean is not 0 when right and wrong
# answers have different lengths. So each response of a solved prompt is pushed down (or up), as if it were wrong (or
# right), by the lengths of the answers to another prompt, without a word. Exits with 0 while it is so, with 1 once it
# is not.
#
# Seen:
#   verl 0.9.1, torch 2.14.1, Python 3.11.7
#   advantages of 4 right answers to one prompt, and of a right one and 3 wrong ones to another
#   the right one of 4 is long: gdpo [-0.67, -0.67, -0.67, -0.67, 1.14, -1.27, -1.27, -1.27]
#   the right one of 4 is long: reinforce_plus_plus_baseline [-0.67, -0.67, -0.67, -0.67, 1.14, -1.27, -1.27, -1.27]
#   the right one of 4 is short: gdpo [0.82, 0.82, 0.82, 0.82, 4.7, -0.47, -0.47, -0.47]
#   the right one of 4 is short: reinforce_plus_plus_baseline [0.82, 0.82, 0.82, 0.82, 4.7, -0.47, -0.47, -0.47]
#   all of one length: gdpo [0.0, 0.0, 0.0, 0.0, 2.43, -0.81, -0.81, -0.81]
#   all of one length: reinforce_plus_plus_baseline [0.0, 0.0, 0.0, 0.0, 2.43, -0.81, -0.81, -0.81]
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
print('source: verl/trainer/ppo/core_algos.py, masked_whiten of the advantages of all tokens\n')
RIGHT = torch.tensor([1., 1, 1, 1, 1, 0, 0, 0])
GROUPS = np.array(['solved'] * 4 + ['mixed'] * 4)


def advantages(lengths):
    lengths = torch.tensor(lengths)
    tokens = torch.arange(int(lengths.max()))
    mask = (tokens < lengths[:, None]).float()
    rewards = (tokens == lengths[:, None] - 1) * RIGHT[:, None]
    prompts = torch.ones(8, 1)
    gdpo, _ = core_algos.compute_gdpo_outcome_advantage(
        rewards, mask, GROUPS, config=dict(gdpo_reward_keys=['accuracy']),
        non_tensor_batch=dict(accuracy=RIGHT.numpy()),
        batch=dict(prompts=prompts, attention_mask=torch.cat([prompts, mask], 1).long()))
    baseline, _ = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, GROUPS)
    return {'gdpo': gdpo, 'reinforce_plus_plus_baseline': baseline}


print('advantages of 4 right answers to one prompt, and of a right one and 3 wrong ones to another')
seen = []
CASES = {'the right one of 4 is long': [10] * 4 + [40, 5, 5, 5],
         'the right one of 4 is short': [10] * 4 + [5, 40, 40, 40], 'all of one length': [10] * 8}
for name, lengths in CASES.items():
    for estimator, numbers in advantages(lengths).items():
        seen.append([round(number, 2) + 0.0 for number in numbers[:, 0].tolist()])
        print(f'{name}: {estimator} {seen[-1]}')
solved = [numbers[0] for numbers in seen]
same = solved == [-0.67, -0.67, 0.82, 0.82, 0, 0] and all(numbers[:4] == numbers[:1] * 4 for numbers in seen)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
