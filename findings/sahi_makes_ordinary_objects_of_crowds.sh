#!/usr/bin/env bash
# sahi: slice_coco, and Coco read and written again, set `iscrowd` of every annotation to 0 without a word, so regions
# that COCO evaluation leaves out (and mmdet trains nothing on) are objects afterwards: a detector that finds all there
# is has half its AP. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    sahi==0.12.8 pycocotools==2.0.11 numpy==2.2.6

cat > show.py <<'PROGRAM'
import contextlib
import copy
import io
import json
import platform
from importlib.metadata import version

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.slicing import slice_coco
from sahi.utils.coco import Coco

print(f'sahi {version("sahi")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print("source: slice_coco(...) in tiles of half an image, and Coco.from_coco_dict_or_path(...).json\n")
W, H = 128, 64
Image.new('RGB', (W, H)).save('street.png')
# One person in the left half, a crowd in the right one.
truth = dict(
    images=[dict(id=1, width=W, height=H, file_name='street.png')], categories=[dict(id=1, name='person')],
    annotations=[dict(id=1, image_id=1, category_id=1, iscrowd=0, area=400, bbox=[10, 10, 20, 20]),
                 dict(id=2, image_id=1, category_id=1, iscrowd=1, area=2000, bbox=[70, 10, 50, 40])])
with open('truth.json', 'w') as file:
    json.dump(truth, file)
# The person, and three people of the crowd, in pixels of the whole image.
found = [([10, 10, 20, 20], 0.9), ([72, 12, 10, 20], 0.8), ([90, 20, 10, 20], 0.7), ([105, 15, 10, 20], 0.6)]

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    sliced, _ = slice_coco('truth.json', '.', 'sliced', output_dir='slices', slice_height=H,
                           slice_width=W // 2, overlap_height_ratio=0, overlap_width_ratio=0)
    again = Coco.from_coco_dict_or_path('truth.json').json


def average(data, tile):
    """AP of the boxes in `found`, in images that are `tile` wide, from left to right."""
    images = sorted(data['images'], key=lambda image: image['file_name'])
    results = [dict(image_id=images[x // tile]['id'], category_id=1, bbox=[x % tile, y, w, h], score=score)
               for (x, y, w, h), score in found]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(data)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), 'bbox')
        run.evaluate(), run.accumulate(), run.summarize()
    return round(float(run.stats[0]), 2)


seen = {}
for name, data, tile in (('truth', truth, W), ('slice_coco', sliced, W // 2), ('Coco', again, W)):
    seen[name] = ([item['iscrowd'] for item in data['annotations']], average(data, tile))
    print(f'{name:10} boxes {[item["bbox"] for item in data["annotations"]]}  iscrowd {seen[name][0]}  '
          f'AP {seen[name][1]}')
same = seen['truth'] == ([0, 1], 1.0) and all(
    crowd == [0, 0] and ap < 0.6 for crowd, ap in (seen['slice_coco'], seen['Coco']))
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: crowds are ordinary objects'
else
    echo 'changed: crowds are kept' >&2
    exit 1
fi
