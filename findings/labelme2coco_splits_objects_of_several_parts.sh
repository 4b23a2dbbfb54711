#!/usr/bin/env bash
# labelme2coco: `group_id`, by which labelme says that several polygons are parts of one object (a cup behind a pole),
# is not read. Each part is written as an object of its own, without a word, so that a mask of the whole object is
# counted as wrong. Exits with 0 while it is, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    labelme2coco==0.2.6 sahi==0.12.8 pycocotools==2.0.11 numpy==2.2.6

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path

import labelme2coco
import pycocotools.mask as coco_mask
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

print(f'labelme2coco {version("labelme2coco")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print('source: labelme2coco.convert(folder, out) of a file as labelme 5 writes it\n')
W, H = 80, 60


def polygon(x, group_id):
    return dict(label='cup', points=[[x, 10], [x + 10, 10], [x + 10, 30], [x, 30]], group_id=group_id,
                description='', shape_type='polygon', flags={}, mask=None)


average = {}
for name, groups in (('three cups', (None, None, None)), ('one cup of three parts', (1, 1, 1))):
    shapes = [polygon(x, group) for x, group in zip((10, 30, 50), groups)]
    labels = Path(name)
    labels.mkdir()
    Image.new('RGB', (W, H)).save(labels / 'a.png')
    (labels / 'a.json').write_text(json.dumps(dict(
        version='5.5.0', flags={}, shapes=shapes, imagePath='a.png', imageData=None, imageHeight=H, imageWidth=W)))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable()
        labelme2coco.convert(str(labels), str(labels / 'out'))
        coco = COCO(labels / 'out' / 'dataset.json')
        # A model that is right: one mask for each object.
        parts = [coco_mask.frPyObjects([[n for point in shape['points'] for n in point]], H, W)[0]
                 for shape in shapes]
        masks = [coco_mask.merge(parts)] if groups[0] else parts
        run = COCOeval(coco, coco.loadRes([dict(
            image_id=coco.getImgIds()[0], category_id=coco.getCatIds()[0], score=0.9, segmentation=mask)
            for mask in masks]), 'segm')
        run.evaluate(), run.accumulate(), run.summarize()
    average[name] = (len(coco.anns), round(float(run.stats[0]), 2))
    print(f'{name:22}: {average[name][0]} annotations, AP of a model that is right {average[name][1]}')
raise SystemExit(0 if average == {'three cups': (3, 1.0), 'one cup of three parts': (3, 0.0)} else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: each part is an object'
else
    echo 'changed: parts are joined' >&2
    exit 1
fi
