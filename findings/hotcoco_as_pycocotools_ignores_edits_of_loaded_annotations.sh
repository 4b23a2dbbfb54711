#!/usr/bin/env bash
# hotcoco: `init_as_pycocotools` puts it in the place of pycocotools, but `coco.anns`, `loadAnns` and
# `coco.dataset['annotations']` give copies. So a script that edits annotations before it evaluates, such as one that
# marks small objects as crowds so that nobody has to find them, reports the numbers of the unedited data, without a
# word. (hotcoco's own `update_anns` edits.) Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   hotcoco 1.3.0, pycocotools 2.0.11, Python 3.11.7
#   pycocotools: AP 0.5; with small objects as crowds by way of anns 1.0, loadAnns 1.0, dataset 1.0
#   hotcoco: AP 0.5; with small objects as crowds by way of anns 0.5, loadAnns 0.5, dataset 0.5
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    hotcoco==1.3.0 pycocotools==2.0.11 numpy==2.2.6

cat > evaluate.py <<'PROGRAM'
import contextlib
import io
import sys

if sys.argv[1] == 'hotcoco':
    from hotcoco import init_as_pycocotools
    init_as_pycocotools()
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOXES = [[10, 10, 40, 40], [60, 60, 8, 8]]  # one large enough to be worth finding, one that is not


def average(edit):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            images=[dict(id=1, width=100, height=100, file_name='a.jpg')], categories=[dict(id=1, name='cup')],
            annotations=[dict(id=number, image_id=1, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
                         for number, box in enumerate(BOXES, 1)])
        coco.createIndex()
        for annotation in edit(coco):
            if annotation['area'] < 100:
                annotation['iscrowd'] = 1
        found = coco.loadRes([dict(image_id=1, category_id=1, bbox=BOXES[0], score=0.9)])
        run = COCOeval(coco, found, 'bbox')
        run.evaluate(), run.accumulate(), run.summarize()
    return round(float(run.stats[0]), 2)


print(*map(average, (lambda coco: [], lambda coco: coco.anns.values(), lambda coco: coco.loadAnns(coco.getAnnIds()),
                     lambda coco: coco.dataset['annotations'])))
PROGRAM
cat > show.py <<'PROGRAM'
import platform
import subprocess
import sys
from importlib.metadata import version

print(f'hotcoco {version("hotcoco")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: the attributes `anns` and `dataset` and the method `loadAnns` of hotcoco.COCO\n')
seen = {}
for package in ('pycocotools', 'hotcoco'):
    seen[package] = [*map(float, subprocess.run([sys.executable, 'evaluate.py', package], check=True, text=True,
                                                capture_output=True).stdout.split())]
    print(f'{package}: AP {seen[package][0]}; with small objects as crowds by way of anns {seen[package][1]}, '
          f'loadAnns {seen[package][2]}, dataset {seen[package][3]}')
same = seen == dict(pycocotools=[0.5, 1, 1, 1], hotcoco=[0.5] * 4)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
