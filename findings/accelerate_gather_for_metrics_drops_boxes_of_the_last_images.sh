#!/usr/bin/env bash
# accelerate: gather_for_metrics ("gathers and potentially drops duplicates in the last batch") cuts what it gathered of
# the last batch to the number of its samples, whatever was gathered. A tensor or list with one row per box, as
# detections are collected, so loses boxes of the last images, without a word, with several processes and a data set
# that does not divide evenly: with 1 image left, all its boxes but one. Gather one entry per image (a list of its
# boxes). Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   accelerate 1.15.0, torch 2.14.1, Python 3.11.7, two processes
#   5 images with 3 boxes each, in batches of 2; boxes gathered of each image:
#   tensor, a row per box:       {0: 3, 1: 3, 2: 3, 3: 3, 4: 1}
#   list, an entry per box:      {0: 3, 1: 3, 2: 3, 3: 3, 4: 1}
#   list, an entry per image:    {0: 3, 1: 3, 2: 3, 3: 3, 4: 3}
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    accelerate==1.15.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import os
import platform
import socket
import subprocess
import sys
import warnings
from collections import Counter

warnings.simplefilter('ignore')
if 'RANK' not in os.environ:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    parts = [subprocess.Popen([sys.executable, __file__], env=dict(
        os.environ, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')) for rank in range(2)]
    raise SystemExit(max(part.wait() for part in parts))

import accelerate
import torch

IMAGES, BOXES = 5, 3
accelerator = accelerate.Accelerator(cpu=True)
batches = accelerator.prepare(torch.utils.data.DataLoader(range(IMAGES), batch_size=2))
seen = {name: Counter() for name in ('tensor, a row per box', 'list, an entry per box', 'list, an entry per image')}
for images in batches:
    found = [[dict(image=image, box=number) for number in range(BOXES)] for image in images.tolist()]
    flat = sum(found, [])
    rows = accelerator.gather_for_metrics(torch.tensor([[box['image'], box['box']] for box in flat]))
    seen['tensor, a row per box'].update(rows[:, 0].tolist())
    entries = accelerator.gather_for_metrics(flat, use_gather_object=True)
    seen['list, an entry per box'].update(box['image'] for box in entries)
    lists = accelerator.gather_for_metrics(found, use_gather_object=True)
    seen['list, an entry per image'].update(box['image'] for boxes in lists for box in boxes)
if accelerator.is_main_process:
    print(f'accelerate {accelerate.__version__}, torch {torch.__version__.partition("+")[0]}, '
          f'Python {platform.python_version()}, two processes')
    print('source: accelerate/accelerator.py, gather_for_metrics\n')
    print(f'{IMAGES} images with {BOXES} boxes each, in batches of 2; boxes gathered of each image:')
    for name, numbers in seen.items():
        print(f'{name + ":":28} {dict(sorted(numbers.items()))}')
    cut = {0: 3, 1: 3, 2: 3, 3: 3, 4: 1}
    same = list(seen.values()) == [cut, cut, cut | {4: 3}]
    print('\nas found' if same else '\nthe behavior has CHANGED')
    accelerator.end_training()
    raise SystemExit(not same)
PROGRAM
env/bin/python show.py
