#!/usr/bin/env bash
# pybboxes: convert_bbox goes through whole pixels on its way, also between formats that have fractions (COCO,
# YOLO, albumentations). COCO's boxes have hundredths of pixels, so nearly all of them change; x and y are rounded to
# even at .5, and small objects lose or gain a good part. `BoundingBox.from_coco(...).to_yolo()` does the same. Exits
# with 0 while it does, with 1 once it does not.
#
# Seen:
#   pybboxes 0.2.0, Python 3.11.7
#   COCO box (10.5, 20.3, 2.4, 7.9) in an image of 640 x 480
#   to YOLO, times the image's size: [11.0, 24.0, 2.0, 8.0], exact [11.7, 24.25, 2.4, 7.9], IoU 0.49
#   to YOLO and back: (10, 20, 2, 8), IoU 0.49
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
# It asks for a pycocotools of which there is no wheel and that a conversion does not need.
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: numpy==1.24.2
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps pybboxes==0.2.0

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

from pybboxes import convert_bbox

print(f'pybboxes {version("pybboxes")}, Python {platform.python_version()}')
print("source: pybboxes.convert_bbox(box, from_type='coco', to_type='yolo', image_size=(640, 480))\n")
WIDTH, HEIGHT = SIZE = 640, 480
BOX = 10.5, 20.3, 2.4, 7.9


def iou(one, two):
    """Of two boxes (x, y, width, height)."""
    width, height = (max(0, min(one[i] + one[i + 2], two[i] + two[i + 2]) - max(one[i], two[i])) for i in (0, 1))
    return width * height / (one[2] * one[3] + two[2] * two[3] - width * height)


yolo = convert_bbox(BOX, from_type='coco', to_type='yolo', image_size=SIZE)
pixels = [round(value * side, 2) for value, side in zip(yolo, SIZE * 2)]
x, y, width, height = pixels
by_yolo = round(iou(BOX, (x - width / 2, y - height / 2, width, height)), 2)
back = convert_bbox(yolo, from_type='yolo', to_type='coco', image_size=SIZE)
print(f'COCO box {BOX} in an image of {WIDTH} x {HEIGHT}')
print(f'to YOLO, times the image\'s size: {pixels}, exact {[11.7, 24.25, 2.4, 7.9]}, IoU {by_yolo}')
print(f'to YOLO and back: {tuple(back)}, IoU {round(iou(BOX, back), 2)}')
same = pixels == [11, 24, 2, 8] and tuple(back) == (10, 20, 2, 8)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
