#!/usr/bin/env bash
# pycocotools' encode takes a uint8 mask, but starts a new run at every change of value, not at every change
# between background and object: of an index mask (0, 1, 2) or a soft one (0 to 255) the result marks other
# pixels, background among them, and no error is raised. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    pycocotools==2.0.11 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import numpy as np
from pycocotools import mask as coco_mask

print(f'pycocotools {version("pycocotools")}, numpy {np.__version__}, Python {platform.python_version()}')
print('source: pycocotools/mask.py documents "encode - Encode binary masks using RLE"; rleEncode in maskApi.c\n'
      '  compares each value with the one before it and does not look whether it is 0\n')


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def square(*changes):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    for rows, columns, value in changes:
        mask[rows, columns] = value
    return mask


same = True
for name, mask, seen in (
        ('object 1', square(), 1.0),
        ('object 255', square() * 255, 1.0),
        ('two objects, 1 and 2, side by side', square((slice(2, 6), slice(4, 6), 2)), 1.0),
        ('two objects, 1 and 2, one above the other', square((slice(4, 6), slice(2, 6), 2)), 0.33),
        ('object 255 whose upper edge is soft (128)', square() * 255 - square() * 127 * (
            np.arange(8) == 2)[:, None].astype(np.uint8), 0.33)):
    wanted, rle = int((mask > 0).sum()), encode(mask)
    area, decoded = int(coco_mask.area(rle)), coco_mask.decode(rle)
    overlap = coco_mask.iou([rle], [encode((mask > 0).astype(np.uint8))], [0])[0, 0]
    same = same and round(float(overlap), 2) == seen
    print(f'{name}: {wanted} pixels are not 0, encoded {area}, IoU with `mask > 0` {overlap:.2f}'
          + ('' if np.array_equal(decoded, mask > 0) else '   <- other pixels'))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
