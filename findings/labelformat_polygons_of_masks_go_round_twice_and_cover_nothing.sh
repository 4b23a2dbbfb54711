#!/usr/bin/env bash
# labelformat: `--input-format maskpair`, which converts mask images to COCO or YOLO, writes polygons by default that go
# round their object twice. By the even-odd rule, as in pycocotools, every pixel inside counts twice and so not at all:
# all masks are empty, and a model that is right has an AP of 0, without a word. With `--segmentation-type rle` masks
# are right, but all objects are marked as crowds, which no AP is about (-1). (Annotations also lack `id` and `area`, so
# that pycocotools refuses the file; they are added here.) Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   labelformat 0.1.17, pycocotools 2.0.11, Python 3.11.7
#   polygon: 0 pixels of 1547, IoU 0.00, iscrowd False, AP of a model that is right 0.0, 248 corners, 124 of them
#     different; without id, area, which were added here
#   rle: 1547 pixels of 1547, IoU 1.00, iscrowd True, AP of a model that is right -1.0; without id, area, which were
#     added here
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    labelformat==0.1.17 pycocotools==2.0.11 numpy==2.2.6 pillow==12.0.0

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(f'labelformat {version("labelformat")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: labelformat/mask_utils.py, _trace_outer_contour goes on at the first return to its start\n')
H, W = 60, 80
y, x = np.mgrid[:H, :W]
MASK = ((x - 40) / 25)**2 + ((y - 30) / 20)**2 < 1
Path('images').mkdir()
Path('masks').mkdir()
Image.new('RGB', (W, H)).save('images/a.png')
Image.fromarray((255 * MASK).astype(np.uint8)).save('masks/a.png')
truth = coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8)))

seen = {}
for kind in ('polygon', 'rle'):
    subprocess.run([str(Path(sys.executable).with_name('labelformat')), 'convert', '--task', 'instance-segmentation',
                    '--input-format', 'maskpair', '--image-glob', 'images/*.png', '--mask-glob', 'masks/*.png',
                    '--category-names', 'plate', '--segmentation-type', kind, '--output-format', 'coco',
                    '--output-file', f'{kind}.json'], check=True, capture_output=True)
    data = json.loads(Path(f'{kind}.json').read_text())
    (line, ) = data['annotations']
    lacks = [name for name in ('id', 'area') if name not in line]  # which pycocotools needs
    line |= dict(id=1, area=int(MASK.sum()))
    Path(f'{kind}.json').write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(f'{kind}.json')
        found = coco.loadRes([dict(image_id=coco.getImgIds()[0], category_id=coco.getCatIds()[0], score=0.9,
                                   segmentation=truth)])
        run = COCOeval(coco, found, 'segm')
        run.evaluate(), run.accumulate(), run.summarize()
    mask = coco.annToMask(line).astype(bool)
    iou = (mask & MASK).sum() / (mask | MASK).sum()
    seen[kind] = (round(float(iou), 2), line['iscrowd'], round(float(run.stats[0]), 2))
    points = np.reshape(line['segmentation'], (-1, 2)).tolist() if kind == 'polygon' else []
    corners = f', {len(points)} corners, {len(set(map(tuple, points)))} of them different' if points else ''
    print(f'{kind}: {mask.sum()} pixels of {MASK.sum()}, IoU {seen[kind][0]:.2f}, iscrowd {line["iscrowd"]}, AP of a '
          f'model that is right {seen[kind][2]}{corners}; without {", ".join(lacks)}, which were added here')
same = seen == dict(polygon=(0, 0, 0), rle=(1, 1, -1))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
