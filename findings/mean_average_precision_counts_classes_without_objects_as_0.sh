#!/usr/bin/env bash
# mean-average-precision: a class of `num_classes` of which the ground truth has no object counts with AP 0 in `mAP`. COCO
# and VOC leave such classes out. So a subset of a data set, a split without a rare class, or labels from 1 (one class
# too many) lower the mAP of a perfect detector, without a word: 0.05 with COCO's 80 classes and images of 4 of them.
# Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   mean-average-precision 2024.1.5.0, pycocotools 2.0.11, Python 3.11.7
#   a perfect detector, 4 classes of objects, num_classes=4: mAP 1.00, COCO 1.00
#   a perfect detector, 4 classes of objects, num_classes=5: mAP 0.80, COCO 1.00
#   a perfect detector, 4 classes of objects, num_classes=80: mAP 0.05, COCO 1.00
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    mean-average-precision==2024.1.5.0 numpy==2.2.6 pandas==2.3.3 pycocotools==2.0.11

cat > show.py <<'PROGRAM'
import contextlib
import io
import platform
from importlib.metadata import version

import numpy as np
from mean_average_precision import MetricBuilder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(f'mean-average-precision {version("mean-average-precision")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print("source: MetricBuilder.build_evaluation_metric('map_2d', num_classes=...), values as for COCO in its README\n")
OBJECTS = 4
boxes = np.array([[100 * i, 0, 100 * i + 50, 50] for i in range(OBJECTS)])
labels, zeros, ones = np.arange(OBJECTS)[:, None], np.zeros((OBJECTS, 2)), np.ones((OBJECTS, 1))


def by_coco(number):
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=1)], categories=[dict(id=i + 1, name=f'class {i}') for i in range(number)],
        annotations=[dict(id=i + 1, image_id=1, category_id=i + 1, bbox=[100 * i, 0, 50, 50], area=2500, iscrowd=0)
                     for i in range(OBJECTS)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes([dict(item, score=1.0) for item in truth.dataset['annotations']]), 'bbox')
        run.evaluate(), run.accumulate(), run.summarize()
    return run.stats[0]


seen = []
for number in (4, 5, 80):
    metric = MetricBuilder.build_evaluation_metric('map_2d', async_mode=False, num_classes=number)
    metric.add(np.hstack([boxes, labels, ones]), np.hstack([boxes, labels, zeros]))
    value = metric.value(iou_thresholds=np.arange(0.5, 1.0, 0.05), recall_thresholds=np.arange(0, 1.01, 0.01),
                         mpolicy='soft')['mAP']
    seen.append((round(float(value), 2), round(float(by_coco(number)), 2)))
    print(f'a perfect detector, {OBJECTS} classes of objects, num_classes={number}: mAP {seen[-1][0]:.2f}, '
          f'COCO {seen[-1][1]:.2f}')
same = seen == [(1.0, 1.0), (0.8, 1.0), (0.05, 1.0)]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
