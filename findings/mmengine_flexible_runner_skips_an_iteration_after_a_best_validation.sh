#!/usr/bin/env bash
# mmengine: a FlexibleRunner whose CheckpointHook has `save_best` writes iter_N.pth again when a validation is the best
# so far, and that file says that N + 1 iterations are done. A run resumed from it leaves out an iteration, with its
# batch. Runner writes N: it keeps what the hook passes (`meta.setdefault`), FlexibleRunner replaces it
# (`meta.update`), though in a validation `runner.iter` is one further than in an iteration. Exits with 0 while it is
# so, with 1 once it is not.
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
import os
import platform
from importlib.metadata import version

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner

print(f'mmengine {version("mmengine")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: FlexibleRunner.save_checkpoint, CheckpointHook._save_best_checkpoint\n')
os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'  # for mmengine's own checkpoints, which this wrote
trained = []


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        if mode == 'loss':
            trained.append(int(inputs))
            return dict(loss=self.linear(torch.ones(1, 1)).sum())
        return [inputs]


class Rising(BaseMetric):
    """Better each time, as of a model that learns."""

    default_prefix, calls = 'metric', 0

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        Rising.calls += 1
        return dict(score=Rising.calls)


def train(kind, name, max_iters, **resume):
    trained.clear()
    data = dict(batch_size=1, num_workers=0, dataset=list(range(1, 7)),
                sampler=dict(type='DefaultSampler', shuffle=False))
    kind(model=Model(), work_dir=name, train_dataloader=data, val_dataloader=data,
         train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2),
         val_cfg=dict(), val_evaluator=dict(type=Rising),
         optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)), log_level='ERROR',
         experiment_name=f'{name}_{max_iters}', default_hooks=dict(checkpoint=dict(
             type='CheckpointHook', by_epoch=False, interval=2, save_best='metric/score',
             rule='greater')), **resume).train()
    return list(trained)


seen = {}
for kind in (Runner, FlexibleRunner):
    name = kind.__name__
    first = train(kind, name, 2)
    done = torch.load(f'{name}/iter_2.pth', weights_only=False)['meta']['iter']
    then = train(kind, name, 6, resume=True, load_from=f'{name}/iter_2.pth')
    seen[name] = (done, then)
    print(f'{name}: trained on batches {first}; iter_2.pth says that {done} iterations are done; '
          f'resumed, it trained on {then}')
raise SystemExit(0 if seen == dict(Runner=(2, [3, 4, 5, 6]), FlexibleRunner=(3, [4, 5, 6])) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: an iteration is left out after a best validation'
else
    echo 'changed: FlexibleRunner resumes where it was' >&2
    exit 1
fi
