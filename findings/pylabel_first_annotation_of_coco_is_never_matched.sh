#!/usr/bin/env bash
# pylabel numbers the annotations of its COCO files from 0, whatever ids they had. pycocotools marks "no match" with 0,
# so the first object of every file counts as missed and the detection of it as false: a model that is right has AP 0 on
# a file with one object. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    pylabel==0.1.55 pycocotools==2.0.11 numpy==2.4.6 pandas==3.1.1

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import platform
from importlib.metadata import version

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pylabel import importer

print(f'pylabel {version("pylabel")}, pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: ImportCoco(...).export.ExportToCoco(...), then COCOeval with one right detection of each object\n')
BOXES = ([10, 10, 20, 20], [50, 10, 30, 40])
outcomes = []
for number in (1, 2):
    boxes = BOXES[:number]
    with open('before.json', 'w') as file:
        json.dump(dict(
            images=[dict(id=1, file_name='a.jpg', width=100, height=80)], categories=[dict(id=1, name='cup')],
            annotations=[dict(id=5 + k, image_id=1, category_id=1, bbox=[x, y, w, h], area=w * h, iscrowd=0,
                              segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
                         for k, (x, y, w, h) in enumerate(boxes)]), file)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        importer.ImportCoco('before.json', path_to_images='.').export.ExportToCoco(output_path='after.json')
    for path in ('before.json', 'after.json'):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(path)
            right = [dict(image_id=1, category_id=1, bbox=box, score=0.9) for box in boxes]
            run = COCOeval(truth, truth.loadRes(right), 'bbox')
            run.evaluate(), run.accumulate(), run.summarize()
        outcomes.append((number, path, list(truth.anns), round(float(run.stats[0]), 2)))
        print(f'{number} object(s), {path:11}: annotation ids {list(truth.anns)}, AP {outcomes[-1][3]}')
same = ([ids[0] for *_, ids, _ in outcomes] == [5, 0, 5, 0]
        and [average for *_, average in outcomes][0::2] == [1.0, 1.0]
        and outcomes[1][3] == 0 and outcomes[3][3] < 0.6)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
