#!/usr/bin/env bash
# lvis: `LVISEval.params.max_dets` renames the result and changes nothing else. A recall asked for at 100 or at 1000
# masks an image (as in SAM's zero-shot proposals) is that at 300, reported as AR@100 or AR@1000; the cut is made
# earlier, by `LVISResults(max_dets=...)`, which in turn leaves the name at AR@300. Exits with 0 while it is so, with 1
# once it is not. Python 3.10 or 3.11.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
# lvis 0.5.3, the newest on PyPI, uses a name that NumPy removed in 1.24.
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    lvis==0.5.3 pycocotools==2.0.11 numpy==1.23.5 matplotlib==3.8.4 opencv-python==4.11.0.86

cat > show.py <<'PROGRAM'
import copy
import json
import logging
import platform
from importlib.metadata import version

import pycocotools.mask as coco_mask
from lvis import LVIS, LVISEval, LVISResults

logging.disable()
print(f'lvis {version("lvis")}, pycocotools {version("pycocotools")}, NumPy {version("numpy")}, '
      f'Python {platform.python_version()}')
print('source: LVISEval(truth, list of masks, "segm") and LVISEval(truth, LVISResults(...), "segm")\n')
OBJECTS, H, W = 500, 420, 520
boxes = [[20 * (i % 25), 20 * (i // 25), 10, 10] for i in range(OBJECTS)]
polygons = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for x, y, w, h in boxes]
with open('truth.json', 'w') as file:
    json.dump(dict(
        images=[dict(id=1, height=H, width=W, neg_category_ids=[], not_exhaustive_category_ids=[])],
        categories=[dict(id=1, name='apple', frequency='f')],
        annotations=[dict(id=i, image_id=1, category_id=1, bbox=box, area=box[2] * box[3], segmentation=polygon)
                     for i, (box, polygon) in enumerate(zip(boxes, polygons), 1)]), file)
truth = LVIS('truth.json')
# A model that is right: one mask for each object, each with a score of its own.
found = [dict(image_id=1, category_id=1, score=1 - i / 1000, segmentation=coco_mask.frPyObjects(polygon, H, W)[0])
         for i, polygon in enumerate(polygons)]


def recall(results, limit=None):
    """Name and value of the average recall over objects of all sizes."""
    run = LVISEval(truth, results, 'segm')
    if limit is not None:
        run.params.max_dets = limit
    run.run()
    return next((name, round(float(value), 2)) for name, value in run.get_results().items() if name.startswith('AR@'))


same = True
for limit, right in ((100, 0.2), (300, 0.6), (1000, 1.0)):
    by_params = recall(copy.deepcopy(found), limit)
    by_results = recall(LVISResults(truth, copy.deepcopy(found), max_dets=limit))
    print(f'{OBJECTS} objects, {limit} masks: recall {right}; params.max_dets={limit}: {by_params}; '
          f'LVISResults(max_dets={limit}): {by_results}')
    same &= by_params == (f'AR@{limit}', 0.6) and by_results == ('AR@300', right)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
