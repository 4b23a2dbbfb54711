#!/usr/bin/env bash
# mmengine: with EarlyStoppingHook in the config, Runner.test() and Runner.val() build the training data set, which
# they do not use: where its files are missing, the test ends with FileNotFoundError before its first batch; and a
# config without a training part fails with "`train_loop` should contain `stop_training` variable". Both pass without
# the hook, which does nothing in a test. Exits with 0 while it is so, with 1 once it is not.
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
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

print(f'mmengine {version("mmengine")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: EarlyStoppingHook.before_run, which reads runner.train_loop\n')


class Lines(torch.utils.data.Dataset):
    def __init__(self, path):
        print(f'reads {path}')
        self.numbers = [float(line) for line in Path(path).read_text().split()]

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        return torch.tensor([self.numbers[index]])


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, *inputs, mode='tensor'):
        return list(inputs)


class Count(BaseMetric):
    default_prefix = 'count'

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return dict(batches=len(results))


def loader(path):
    return dict(batch_size=2, dataset=dict(type=Lines, path=path),
                sampler=dict(type='DefaultSampler', shuffle=False))


TRAINING = dict(train_dataloader=loader('train.txt'), train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
HOOK = dict(type='EarlyStoppingHook', monitor='count/batches', rule='greater')
Path('test.txt').write_text('1 2 3 4')  # this machine has the test data, not train.txt
seen = {}
for part, training in (('with a training part', TRAINING), ('without', {})):
    for hooks in ([], [HOOK]):
        for method in ('test', 'val'):
            runner = Runner(
                model=Model(), work_dir='.', log_level='ERROR', custom_hooks=hooks,
                experiment_name=f'{len(training)}_{len(hooks)}_{method}',
                **{f'{method}_dataloader': loader('test.txt'), f'{method}_cfg': {},
                   f'{method}_evaluator': dict(type=Count)}, **training)
            try:
                outcome = str(getattr(runner, method)())
            except (AssertionError, FileNotFoundError) as error:
                outcome = f'{type(error).__name__}: {error}'
            seen[part, len(hooks), method] = outcome
            print(f'{method}, config {part}, {len(hooks)} custom hooks: {outcome}\n')
fine = "{'count/batches': 2}"
wrong = {'with a training part': "FileNotFoundError: [Errno 2] No such file or directory: 'train.txt'",
         'without': 'AssertionError: `train_loop` should contain `stop_training` variable.'}
same = all(outcome == (wrong[part] if hooks else fine) for (part, hooks, _), outcome in seen.items())
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the hook asks for the training data'
else
    echo 'changed: the hook lets tests run without training data' >&2
    exit 1
fi
