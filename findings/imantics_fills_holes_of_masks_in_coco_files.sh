#!/usr/bin/env bash
# imantics (the library beside COCO Annotator) writes the hole of a mask as one more polygon of the object. The polygons
# of a COCO object are joined, so all that read the file fill the hole, while `area` beside it is that of the mask with
# the hole. Its own way back draws the hole. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.2.6 opencv-python-headless==4.11.0.86 pycocotools==2.0.11 lxml==6.0.2 xmljson==0.2.1
env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps imantics==0.1.12

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import numpy as np
import pycocotools.mask as coco_mask
from imantics import Category, Dataset, Image, Mask, Polygons

print(f'imantics {version("imantics")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: Image.add(Mask(array)), then Dataset.coco()\n')
H = W = 100
ring = np.zeros((H, W), bool)
ring[10:90, 10:90] = True
ring[30:70, 30:70] = False
image = Image(image_array=np.zeros((H, W, 3), np.uint8), path='a.png')
image.add(Mask(ring), category=Category('ring'))
data = Dataset('rings')
data.add(image)
annotation = data.coco()['annotations'][0]
read = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], H, W))).astype(bool)
own = np.asarray(Polygons(annotation['segmentation']).mask(W, H).array).astype(bool)
iou = (read & ring).sum() / (read | ring).sum()
print(f'mask: {ring.sum()} pixels; file: {len(annotation["segmentation"])} polygons, area {annotation["area"]}')
print(f'read by pycocotools: {read.sum()} pixels, IoU with the mask {iou:.2f}, middle of the hole '
      f'{"filled" if read[50, 50] else "empty"}')
print(f'read by imantics:    {own.sum()} pixels, middle of the hole {"filled" if own[50, 50] else "empty"}')
same = read[50, 50] and not own[50, 50] and annotation['area'] == ring.sum() and iou < 0.8
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(0 if same else 1)
PROGRAM
env/bin/python show.py
