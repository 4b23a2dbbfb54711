#!/usr/bin/env bash
# transformers: the processors of SAM and SAM-HQ, which pad a batch of images with different numbers of points, do not
# get far: SAM's adds one label where it adds all missing points, so one point and two work, and one and three end with
# NumPy's "setting an array element with a sequence"; SAM-HQ's pads with `None` and ends with "unsupported operand
# type(s) for +" in both. SAM-HQ works as SAM does with `point_pad_value=-10`, and the processor of SAM 2 with all.
# Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1

cat > show.py <<'PROGRAM'
import platform

import numpy as np
import torch
import transformers
from transformers import (
    Sam2ImageProcessor,
    Sam2Processor,
    SamHQProcessor,
    SamImageProcessor,
    SamProcessor,
)

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, NumPy {np.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: processor(images, input_points=..., input_labels=...), with as many points in the second image as '
      'said\n')
image = np.full((60, 90, 3), 100, np.uint8)
POINTS, LABELS = [[45, 30], [10, 10], [80, 50]], [1, 0, 0]
seen = {}
for make, images in ((SamProcessor, SamImageProcessor), (SamHQProcessor, SamImageProcessor),
                     (Sam2Processor, Sam2ImageProcessor)):
    processor = make(images())
    for count in (1, 2, 3):
        points, labels = [POINTS[:1], POINTS[:count]], [LABELS[:1], LABELS[:count]]
        if make is Sam2Processor:  # one object an image
            points, labels = [[item] for item in points], [[item] for item in labels]
        for options in ({}, dict(point_pad_value=-10)) if make is SamHQProcessor else ({}, ):
            try:
                batch = processor([image, image], input_points=points, input_labels=labels, return_tensors='pt',
                                  **options)
                outcome = str(batch['input_labels'].reshape(2, -1).tolist())
            except (TypeError, ValueError) as error:
                outcome = f'{type(error).__name__}: {error}'
            name = ', '.join([make.__name__, *(f'{key}={value}' for key, value in options.items())])
            seen[name, count] = outcome
            print(f'{name:35} 1 and {count} points: {outcome}')
FINE = {1: '[[1], [1]]', 2: '[[1, -10], [1, 0]]', 3: '[[1, -10, -10], [1, 0, 0]]'}
same = True
for (name, count), outcome in seen.items():
    if name == 'SamHQProcessor' and count > 1:
        same &= outcome.startswith('TypeError: unsupported operand type(s) for +')
    elif name != 'Sam2Processor' and count == 3:
        same &= outcome.startswith('ValueError: setting an array element with a sequence')
    else:
        same &= outcome == FINE[count]
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: batches are not padded'
else
    echo 'changed: batches are padded' >&2
    exit 1
fi
