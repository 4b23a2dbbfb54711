#!/usr/bin/env bash
# torchdata: StatefulDataLoader, for going on in the middle of an epoch, keeps the order only with `shuffle=True` or a
# sampler that has a state. Torch's RandomSampler and SubsetRandomSampler, given as `sampler=`, draw a new order, of
# which as many samples are skipped as were used: some of the rest were used already, and as many are never used in that
# epoch, without a word. The tutorial says that torch's RandomSampler is patched. A seeded generator helps in the first
# epoch alone, since it starts anew. Pass `shuffle=True` (with a Subset) or torchdata's own RandomSampler. Exits with 0
# while it is so, with 1 once it is not.
#
# Seen:
#   torchdata 0.11.0, torch 2.14.1, Python 3.11.7
#   40 samples, saved after 20 and loaded by a new loader; samples of this epoch that are used twice / never
#   shuffle=True: epoch 1: 0 / 0, epoch 2: 0 / 0
#   torchdata's RandomSampler: epoch 1: 0 / 0, epoch 2: 0 / 0
#   RandomSampler: epoch 1: 11 / 11, epoch 2: 9 / 9
#   RandomSampler, seeded: epoch 1: 0 / 0, epoch 2: 8 / 8
#   SubsetRandomSampler: epoch 1: 10 / 10, epoch 2: 9 / 9
#   SubsetRandomSampler, seeded: epoch 1: 0 / 0, epoch 2: 11 / 11
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torchdata==0.11.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter('ignore')
import torch
from torch.utils.data import RandomSampler, SubsetRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as OwnRandomSampler

print(f'torchdata {version("torchdata")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torchdata/stateful_dataloader/sampler.py, _BatchSamplerIterator.load_state_dict: "We skip x samples if '
      'underlying sampler is not stateful"\n')
DATA = range(40)


def seeded():
    return torch.Generator().manual_seed(3)


KINDS = {
    'shuffle=True': lambda: dict(shuffle=True),
    "torchdata's RandomSampler": lambda: dict(sampler=OwnRandomSampler(DATA)),
    'RandomSampler': lambda: dict(sampler=RandomSampler(DATA)),
    'RandomSampler, seeded': lambda: dict(sampler=RandomSampler(DATA, generator=seeded())),
    'SubsetRandomSampler': lambda: dict(sampler=SubsetRandomSampler(DATA)),
    'SubsetRandomSampler, seeded': lambda: dict(sampler=SubsetRandomSampler(DATA, generator=seeded()))}


def loader(kind, seed):
    torch.manual_seed(seed)  # as in another process, where torch's own generator is elsewhere
    return StatefulDataLoader(DATA, batch_size=5, **KINDS[kind]())


def twice_and_never(kind, epoch):
    first = loader(kind, 0)
    for _ in range(epoch - 1):
        list(first)
    batches = iter(first)
    used = [number for _ in range(4) for number in next(batches).tolist()]
    state, second = first.state_dict(), loader(kind, 1)
    second.load_state_dict(state)
    later = [number for batch in second for number in batch.tolist()]
    return len(set(used) & set(later)), len(set(DATA) - set(used) - set(later))


print('40 samples, saved after 20 and loaded by a new loader; samples of this epoch that are used twice / never')
seen = {}
for kind in KINDS:
    seen[kind] = [twice_and_never(kind, epoch) for epoch in (1, 2)]
    print(f'{kind}: ' + ', '.join(f'epoch {epoch}: {twice} / {never}'
                                  for epoch, (twice, never) in enumerate(seen[kind], start=1)))
changed = {kind: [twice > 0 for twice, _ in values] for kind, values in seen.items()}
same = changed == {'shuffle=True': [False, False], "torchdata's RandomSampler": [False, False],
                   'RandomSampler': [True, True], 'RandomSampler, seeded': [False, True],
                   'SubsetRandomSampler': [True, True], 'SubsetRandomSampler, seeded': [False, True]}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
