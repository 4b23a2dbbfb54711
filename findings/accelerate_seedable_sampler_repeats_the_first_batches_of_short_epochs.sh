#!/usr/bin/env bash
# accelerate: with `use_seedable_sampler=True` (for "fully reproducible" training; transformers' Trainer sets it), a
# shuffled loader gets a new order only after a pass that ended by itself: SeedableRandomSampler and DataLoaderShard
# count a pass at its end. In a loop with so many steps per epoch (`if step == STEPS: break`) every epoch so trains on
# the same few batches, and the rest of the data is never seen, without a word. Torch's shuffle and accelerate's default
# draw anew. Call `loader.set_epoch(epoch)` before each pass. Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   accelerate 1.15.0, torch 2.14.1, Python 3.11.7
#   1000 samples, 20 epochs of 5 steps with 2 samples each; different samples that were trained on:
#   torch's DataLoader(shuffle=True):                   184
#   prepared:                                           184
#   prepared, use_seedable_sampler=True:                10
#   the same, set_epoch(epoch) before each epoch:       179
#   the same, without set_epoch, 2 whole passes alike:  False
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    accelerate==1.15.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings

warnings.simplefilter('ignore')
import accelerate
import torch
from accelerate.utils import DataLoaderConfiguration, set_seed

SAMPLES, EPOCHS, STEPS, BATCH = 1000, 20, 5, 2


def prepare(seedable):
    set_seed(0)
    accelerator = accelerate.Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable))
    return accelerator.prepare(torch.utils.data.DataLoader(range(SAMPLES), BATCH, shuffle=True))


def train(loader, set_epoch=False):
    seen = set()
    for epoch in range(EPOCHS):
        if set_epoch:
            loader.set_epoch(epoch)
        for step, batch in enumerate(loader):
            if step == STEPS:
                break
            seen |= set(batch.tolist())
    return len(seen)


torch.manual_seed(0)
found = {
    "torch's DataLoader(shuffle=True)": train(torch.utils.data.DataLoader(range(SAMPLES), BATCH, shuffle=True)),
    'prepared': train(prepare(False)),
    'prepared, use_seedable_sampler=True': train(prepare(True)),
    'the same, set_epoch(epoch) before each epoch': train(prepare(True), set_epoch=True)}
whole = prepare(True)
passes = [torch.cat(list(whole)).tolist() for _ in range(2)]
found['the same, without set_epoch, 2 whole passes alike'] = passes[0] == passes[1]
print(f'accelerate {accelerate.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print(f'{SAMPLES} samples, {EPOCHS} epochs of {STEPS} steps with {BATCH} samples each; different samples that were '
      'trained on:')
for name, value in found.items():
    print(f'{name + ":":51} {value}')
torchs, prepared, seedable, corrected, alike = found.values()
raise SystemExit(0 if seedable == STEPS * BATCH and min(torchs, prepared, corrected) > 150 and not alike else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: every short epoch has the same batches'
else
    echo 'changed: short epochs go on in the data' >&2
    exit 1
fi
