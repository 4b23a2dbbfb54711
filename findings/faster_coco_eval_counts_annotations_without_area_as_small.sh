#!/usr/bin/env bash
# faster-coco-eval, a drop-in for pycocotools: ground truth without `area` is evaluated as if each object had no
# pixel, so AP small is that of all objects and AP medium and AP large are -1, without a word; pycocotools raises.
# Boxes and masks, from which the area follows, are there. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6

cat > show.py <<'PROGRAM'
import contextlib
import copy
import io
import platform
from importlib.metadata import version

import faster_coco_eval
import pycocotools.coco
import pycocotools.cocoeval

print(f'faster-coco-eval {version("faster-coco-eval")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print('source: COCOeval_faster(COCO(dict), COCO.loadRes(list), "bbox" or "segm")\n')


def square(x, side):
    return dict(image_id=1, category_id=1, bbox=[x, 10, side, side],
                segmentation=[[x, 10, x + side, 10, x + side, 10 + side, x, 10 + side]])


SIDES = dict(small=20, medium=60, large=200)
objects = [square(x, side) for x, side in zip((10, 100, 250), SIDES.values())]
truth = dict(images=[dict(id=1, width=640, height=480, file_name='1.jpg')],
             categories=[dict(id=1, name='cup')],
             annotations=[dict(item, id=i, iscrowd=0) for i, item in enumerate(objects, 1)])
# The large object is found, the two others are not.
found = [dict(objects[2], score=0.9)]


def evaluate(truth, kind, faster):
    with contextlib.redirect_stdout(io.StringIO()):
        if faster:
            coco = faster_coco_eval.COCO(copy.deepcopy(truth))
            evaluation = faster_coco_eval.COCOeval_faster
        else:
            coco = pycocotools.coco.COCO()
            coco.dataset = copy.deepcopy(truth)
            coco.createIndex()
            evaluation = pycocotools.cocoeval.COCOeval
        run = evaluation(coco, coco.loadRes(copy.deepcopy(found)), kind)
        try:
            run.evaluate()
            run.accumulate()
            run.summarize()
        except KeyError as error:
            return f'KeyError: {error}'
    return [round(float(run.stats[i]), 2) for i in (0, 3, 4, 5)]


with_area = copy.deepcopy(truth)
for item in with_area['annotations']:
    item['area'] = item['bbox'][2] * item['bbox'][3]
same = True
for kind in ('bbox', 'segm'):
    for name, data, faster, seen in (
            ('pycocotools, with area', with_area, False, [0.34, 0.0, 0.0, 1.0]),
            ('faster-coco-eval, with area', with_area, True, [0.34, 0.0, 0.0, 1.0]),
            ('pycocotools, without', truth, False, "KeyError: 'area'"),
            ('faster-coco-eval, without', truth, True, [0.34, 0.34, -1.0, -1.0])):
        got = evaluate(data, kind, faster)
        same &= got == seen
        print(f'{kind} AP all, small, medium, large | {name:28} {got}')
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: missing areas count as 0'
else
    echo 'changed: areas that are missing are no longer 0' >&2
    exit 1
fi
