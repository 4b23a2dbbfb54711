#!/usr/bin/env bash
# mmengine: with several processes, `collect_results`, by which every BaseMetric collects its results, drops those that
# are None: it takes them for the filling of shorter lists. With one process they stay. So a metric that keeps None for
# a sample without a result (no answer, no ground truth) gets fewer results on two GPUs than on one, each after it at
# another place; where the sampler repeats samples so that all processes have as many, a repeated one takes its place
# and counts twice. No error, no warning. What to do: keep something else than None, a dict or a tuple, for every
# sample. Exits with 0 while it is so, with 1 once it is not.
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
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from torch.multiprocessing import start_processes

logging.disable()
os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
ANSWERS = ['yes', None, 'no', 'yes', 'no']  # to five questions, of which one has none
EMPTY = {'None': None, 'a dict': {}}


class Answers(BaseMetric):
    default_prefix = 'answers'

    def __init__(self, empty):
        super().__init__()
        self.empty = empty

    def process(self, data_batch, data_samples):
        self.results += [self.empty if answer is None else answer for answer in data_samples]

    def compute_metrics(self, results):
        return dict(count=len(results), yes=sum(answer == 'yes' for answer in results) / len(results), all=results)


def work(rank, processes, empty):
    dist.init_process_group('gloo', init_method=f'file://{Path.cwd()}/{empty}_{processes}', rank=rank,
                            world_size=processes)
    metric = Answers(EMPTY[empty])
    for index in DefaultSampler(ANSWERS, shuffle=False):
        metric.process(None, [ANSWERS[index]])
    values = metric.evaluate(len(ANSWERS))
    if rank == 0:
        torch.save(values, 'values.pt')
    dist.destroy_process_group()


if __name__ == '__main__':
    print(f'mmengine {version("mmengine")}, torch {torch.__version__.partition("+")[0]}, '
          f'Python {platform.python_version()}')
    print(f'source: BaseMetric.evaluate, collect_results; answers {ANSWERS}\n')
    seen = {}
    for empty in EMPTY:
        for processes in (1, 2, 3):
            start_processes(work, (processes, empty), nprocs=processes, start_method='spawn')
            values = torch.load('values.pt')
            seen[empty, processes] = [answer or None for answer in values['answers/all']]
            print(f'{empty} for no answer, {processes} processes: share of yes {values["answers/yes"]:.2f}, '
                  f'of {values["answers/count"]} results {values["answers/all"]}')
    wrong = {('None', 2): ['yes', 'no', 'yes', 'no', 'yes'], ('None', 3): ['yes', 'no', 'yes', 'no', 'yes']}
    raise SystemExit(0 if all(results == wrong.get(key, ANSWERS) for key, results in seen.items()) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: None is dropped where there are several processes'
else
    echo 'changed: None is a result like any other' >&2
    exit 1
fi
