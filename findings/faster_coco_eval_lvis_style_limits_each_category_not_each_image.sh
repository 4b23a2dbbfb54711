#!/usr/bin/env bash
# faster-coco-eval: `lvis_style=True` with LVIS's limit of 300 keeps 300 detections of each category of an image, as
# COCO does; lvis keeps 300 of an image, whatever their categories. A detector that gives more has a higher AP here than
# in lvis, without a word; up to 300 both are equal. Exits with 0 while it is so, with 1 once it is not. Python 3.10 or
# 3.11.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
# lvis 0.5.3, the newest on PyPI, uses a name that NumPy removed in 1.24.
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    lvis==0.5.3 pycocotools==2.0.11 numpy==1.23.5 matplotlib==3.8.4 opencv-python==4.11.0.86
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps faster-coco-eval==1.8.0

cat > show.py <<'PROGRAM'
import contextlib
import copy
import io
import json
import logging
import platform
from importlib.metadata import version

import faster_coco_eval
from lvis import LVIS, LVISEval

logging.disable()
print(f'faster-coco-eval {version("faster-coco-eval")}, lvis {version("lvis")}, NumPy {version("numpy")}, '
      f'Python {platform.python_version()}')
print('source: COCOeval_faster(truth, found, "bbox", lvis_style=True) with params.maxDets = [300], and LVISEval\n')
OBJECTS, CATEGORIES = 500, 5
boxes = [[20 * (i % 25), 20 * (i // 25), 10, 10] for i in range(OBJECTS)]
objects = [dict(image_id=1, category_id=1 + i % CATEGORIES, bbox=box) for i, box in enumerate(boxes)]
with open('truth.json', 'w') as file:
    json.dump(dict(
        images=[dict(id=1, height=420, width=520, neg_category_ids=[], not_exhaustive_category_ids=[])],
        categories=[dict(id=i, name=f'fruit {i}', frequency='rcf'[i % 3]) for i in range(1, CATEGORIES + 1)],
        annotations=[dict(item, id=i, area=100, iscrowd=0) for i, item in enumerate(objects, 1)]), file)
found = [dict(item, score=1 - i / 1000) for i, item in enumerate(objects)]


def by_lvis(found):
    run = LVISEval(LVIS('truth.json'), copy.deepcopy(found), 'bbox')
    run.run()
    return [round(float(run.get_results()[name]), 2) for name in ('AP', 'APr', 'APc', 'APf', 'AR@300')]


def by_faster_coco_eval(found):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = faster_coco_eval.COCO('truth.json')
        run = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(copy.deepcopy(found)), 'bbox', lvis_style=True)
        run.params.maxDets = [300]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [round(float(run.stats_as_dict[name]), 2) for name in ('AP_all', 'APr', 'APc', 'APf', 'AR_all')]


same = True
for number, seen in ((200, (0.4, 0.4)), (300, (0.6, 0.6)), (400, (0.6, 0.8)), (500, (0.6, 1.0))):
    values = by_lvis(found[:number]), by_faster_coco_eval(found[:number])
    print(f'{OBJECTS} objects, {number} found: AP all, rare, common, frequent, AR: lvis {values[0]}, '
          f'faster-coco-eval {values[1]}')
    same &= all(abs(value - expected) < 0.02 for row, expected in zip(values, seen) for value in row)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
