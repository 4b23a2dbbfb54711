#!/usr/bin/env bash
# supervision: DetectionDataset.as_coco writes `iscrowd: 1` for each object whose mask has a hole or two parts, and
# COCO evaluation leaves such objects out: a detector that misses all of them still has AP 1. Its boxes end on the
# last pixel, not behind it, so they are one pixel short. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    supervision==0.31.2 opencv-python-headless==4.14.0.94 pycocotools==2.0.11 numpy==2.4.6

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter('ignore')
import numpy as np
import supervision as sv
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(f'supervision {version("supervision")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print('source: DetectionDataset.as_coco(annotations_path=...), read by COCOeval of pycocotools\n')
whole = np.zeros((60, 80), bool)
whole[10:30, 10:40] = True
hole = whole.copy()
hole[15:20, 15:25] = False
parts = whole.copy()
parts[40:50, 50:70] = True
masks = dict(whole=whole, hole=hole, parts=parts)

objects = {f'{name}.png': sv.Detections(xyxy=sv.mask_to_xyxy(mask[None]).astype(float),
                                        mask=mask[None], class_id=np.array([0]))
           for name, mask in masks.items()}
images = {path: np.zeros((60, 80, 3), np.uint8) for path in objects}
sv.DetectionDataset(['cup'], images, objects).as_coco(annotations_path='truth.json')
truth = json.load(open('truth.json'))
names = {image['id']: image['file_name'].removesuffix('.png') for image in truth['images']}
crowd, boxes = {}, {}
for item in truth['annotations']:
    name = names[item['image_id']]
    crowd[name], boxes[name] = item['iscrowd'], item['bbox']
    print(f'{name:6} iscrowd {item["iscrowd"]}  bbox {item["bbox"]}  area {item["area"]}')

# The whole object alone is found.
found = [dict(image_id=item['image_id'], category_id=item['category_id'], score=0.9,
              segmentation=COCO('truth.json').annToRLE(item))
         for item in truth['annotations'] if names[item['image_id']] == 'whole']
average = {}
for name in ('as exported', 'iscrowd 0'):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO('truth.json')
        for item in coco.dataset['annotations']:
            if name == 'iscrowd 0':
                item['iscrowd'] = 0
        run = COCOeval(coco, coco.loadRes([dict(item) for item in found]), 'segm')
        run.evaluate(), run.accumulate(), run.summarize()
    average[name] = round(float(run.stats[0]), 2)
print(f'AP where one of the three objects is found: {average}')
same = (crowd == dict(whole=0, hole=1, parts=1) and average == {'as exported': 1.0, 'iscrowd 0': 0.34}
        and boxes['whole'] == [10.0, 10.0, 29.0, 19.0])
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: masks with holes or parts are written as crowds'
else
    echo 'changed: masks with holes or parts are ordinary objects' >&2
    exit 1
fi
