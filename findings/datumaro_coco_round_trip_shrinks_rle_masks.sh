#!/usr/bin/env bash
# datumaro: COCO in and COCO out changes masks that are stored as RLE with `iscrowd: 0`. They come back as polygons
# through the centres of border pixels, so that each loses its last row and column, holes are filled, and what is
# at most two pixels thin has no segmentation left; `area` is that of the smaller mask. Exits with 0 while it does,
# with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    datumaro==1.13.12 pycocotools==2.0.11

cat > show.py <<'PROGRAM'
import json
import platform
from importlib.metadata import version
from pathlib import Path

import datumaro
import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

print(f'datumaro {version("datumaro")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print("source: Dataset.import_from(folder, 'coco_instances'), then export(folder, 'coco_instances')\n")
H, W = 60, 80


def block(height, width):
    mask = np.zeros((H, W), np.uint8)
    mask[10:10 + height, 10:10 + width] = 1
    return mask


hole = block(20, 30)
hole[15:20, 15:25] = 0
masks = {'20 x 30': block(20, 30), '20 x 30, hole': hole, '10 x 10': block(10, 10),
         '5 x 5': block(5, 5), '2 x 2': block(2, 2)}


def encode(mask):
    code = coco_mask.encode(np.asfortranarray(mask))
    return dict(size=code['size'], counts=code['counts'].decode())


Path('data/images').mkdir(parents=True)
Path('data/annotations').mkdir()
Image.new('RGB', (W, H)).save('data/images/a.jpg')
Path('data/annotations/instances_val.json').write_text(json.dumps(dict(
    images=[dict(id=1, height=H, width=W, file_name='a.jpg')], categories=[dict(id=1, name='cup')],
    annotations=[dict(id=i, image_id=1, category_id=1, iscrowd=0, area=int(mask.sum()),
                      bbox=coco_mask.toBbox(encode(mask)).tolist(), segmentation=encode(mask))
                 for i, mask in enumerate(masks.values(), 1)])))

datumaro.Dataset.import_from('data', 'coco_instances').export('out', 'coco_instances')
written = json.loads(Path('out/annotations/instances_val.json').read_text())['annotations']
kept = {}
for item in sorted(written, key=lambda item: item['id']):
    name = list(masks)[item['id'] - 1]
    before, after = masks[name] > 0, np.zeros((H, W), bool)
    if item['segmentation']:
        after = coco_mask.decode(coco_mask.merge(
            coco_mask.frPyObjects(item['segmentation'], H, W))) > 0
    iou = round(float((before & after).sum() / (before | after).sum()), 3)
    kept[name] = (int(before.sum()), int(after.sum()), iou)
    print(f'{name:14} pixels {before.sum():3} -> {after.sum():3}  IoU {iou:.3f}  iscrowd '
          f'{item["iscrowd"]}  area {item["area"]}')
same = kept == {'20 x 30': (600, 551, 0.918), '20 x 30, hole': (550, 551, 0.835),
                '10 x 10': (100, 81, 0.81), '5 x 5': (25, 16, 0.64), '2 x 2': (4, 0, 0.0)}
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: masks come back smaller'
else
    echo 'changed: masks come back otherwise' >&2
    exit 1
fi
