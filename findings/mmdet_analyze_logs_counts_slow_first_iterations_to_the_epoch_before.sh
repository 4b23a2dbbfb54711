#!/usr/bin/env bash
# mmdet: `analyze_logs.py cal_train_time` puts the first line of each epoch of mmengine's log into the epoch before. So
# it leaves out the slow first value of the first epoch alone and, of each later one, a usual value in its place: the
# average is that with the outliers. With two lines an epoch the last epoch, and the average, are nan. Exits with 0
# while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 seaborn==0.13.2 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmdet==3.3.0

cat > show.py <<'PROGRAM'
import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import files, version
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

(tool, ) = [file.locate() for file in files('mmdet') if file.name == 'analyze_logs.py']
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: load_json_logs in mmdet/.mim/tools/analysis_tools/analyze_logs.py, of which this is cal_train_time\n')


class Data(torch.utils.data.Dataset):
    """Slow in the first batch of each epoch, as where worker processes start or files are opened."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        time.sleep(1.0 if index == 0 else 0.002)
        return torch.ones(1)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.linear(inputs).square().mean())


def train(lines):
    """Train three epochs, with so many lines of log in each; return the log."""
    runner = Runner(
        model=Model(), work_dir=f'{lines}_lines', experiment_name=f'{lines}_lines', log_level='ERROR',
        default_hooks=dict(logger=dict(type='LoggerHook', interval=60 // lines), checkpoint=None),
        log_processor=dict(window_size=60 // lines), train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), visualizer=dict(
            type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        train_dataloader=dict(batch_size=1, dataset=Data(), sampler=dict(type='DefaultSampler', shuffle=False)))
    runner.train()
    return next(Path(f'{lines}_lines').glob('*/vis_data/scalars.json'))


def mean(values):
    return sum(values) / len(values) if values else float('nan')


same = True
for lines in (6, 2):
    log = train(lines)
    times = {}
    for line in map(json.loads, log.read_text().splitlines()):
        times.setdefault(line['epoch'], []).append(line['time'])
    right = mean([mean(values[1:]) for values in times.values()])
    answer = subprocess.run([sys.executable, tool, 'cal_train_time', log], capture_output=True, text=True)
    said = float(re.search(r'average iter time: (\S+)', answer.stdout)[1])
    for epoch, values in times.items():
        print(f'{lines} lines an epoch, epoch {epoch}: time {[round(value, 3) for value in values]}')
    print(f'average without the first of each epoch: {right:.4f} s/iter; the tool:')
    print(re.sub(r'(?m)^-----.*\n', '', answer.stdout))
    same &= said > 1.5 * right if lines == 6 else said != said
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: first values count to the epoch before'
else
    echo 'changed: first values count to their own epoch' >&2
    exit 1
fi
