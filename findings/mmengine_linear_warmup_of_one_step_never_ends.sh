#!/usr/bin/env bash
# mmengine: LinearLR that lasts one step (`end=1`: warm-up in the first epoch) leaves the learning rate at
# `start_factor` for the whole training, without a word, where torch's LinearLR of one step ends at the full rate; a
# cosine after it goes down from there. `start_factor=0.0` passes the check ("should between 0 and 1"), and the
# training ends with ZeroDivisionError after the first step. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps mmengine==0.10.7

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

print(f'mmengine {version("mmengine")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: LinearParamScheduler._get_value in mmengine/optim/scheduler/param_scheduler.py\n')


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.linear(inputs).square().mean())


class Record(Hook):
    def __init__(self):
        self.rates = []

    def before_train_epoch(self, runner):
        self.rates.append(round(runner.optim_wrapper.get_lr()['lr'][0], 5))


def train(number, scheduler):
    """Learning rates of four epochs, and the error that ended the training, if any."""
    record = Record()
    runner = Runner(
        model=Model(), work_dir='.', log_level='ERROR', experiment_name=f'run_{number}', custom_hooks=[record],
        default_hooks=dict(checkpoint=None), train_cfg=dict(by_epoch=True, max_epochs=4), param_scheduler=scheduler,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        train_dataloader=dict(batch_size=1, dataset=torch.ones(2, 1), sampler=dict(type='DefaultSampler')))
    try:
        runner.train()
    except ZeroDivisionError as error:
        return [*record.rates, repr(error)]
    return record.rates


def train_with_torch():
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=1)
    rates = []
    for _ in range(4):
        rates.append(round(optimizer.param_groups[0]['lr'], 5))
        optimizer.step()
        scheduler.step()
    return rates


def warmup(factor, epochs):
    return dict(type='LinearLR', start_factor=factor, begin=0, end=epochs)


cosine = dict(type='CosineAnnealingLR', begin=1, end=4, T_max=3)
seen = {'torch, 1 step': train_with_torch(),
        'mmengine, end=2': train(0, [warmup(0.01, 2)]),
        'mmengine, end=1': train(1, [warmup(0.01, 1)]),
        'mmengine, end=1, then cosine': train(2, [warmup(0.01, 1), cosine]),
        'mmengine, start_factor=0.0, end=2': train(3, [warmup(0.0, 2)])}
for name, rates in seen.items():
    print(f'{name:34} learning rate of each epoch, of 0.1: {rates}')
raise SystemExit(0 if list(seen.values()) == [
    [0.001, 0.1, 0.1, 0.1], [0.001, 0.1, 0.1, 0.1], [0.001, 0.001, 0.001, 0.001],
    [0.001, 0.001, 0.00075, 0.00025], [0.0, "ZeroDivisionError('float division by zero')"]] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the warm-up never ends'
else
    echo 'changed: a warm-up of one step ends' >&2
    exit 1
fi
