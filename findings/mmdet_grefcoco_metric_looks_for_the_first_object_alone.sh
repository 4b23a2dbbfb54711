#!/usr/bin/env bash
# mmdet: gRefCOCOMetric takes only the first box of an expression: `loadAnns(ann_ids[0])`, of which the loop over "all"
# objects then sees one. gRefCOCO's own evaluation takes all. So an expression for several objects, for which gRefCOCO
# was made, counts as wrong when all are found (one box is right, the others count as too many) and as right when the
# first alone is found, without a word: a perfect model has an F1_score of only the share of the other expressions, and
# a model that never gives a second box has 1. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   mmdet 3.3.0, mmengine 0.10.7, Python 3.11.7
#   "the two on the left" (2 objects), "the dog" (1), "the horse" (none)
#   all objects: F1_score 0.67, with gRefCOCO's rule 1.00
#   the first alone: F1_score 1.00, with gRefCOCO's rule 0.67
#   the second alone: F1_score 0.67, with gRefCOCO's rule 0.67
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 pycocotools==2.0.11 \
    PyYAML==6.0.2 rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 tqdm==4.70.1 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmdet==3.3.0

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import logging
import platform
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

import torch

logging.disable()
# Without the __init__.py of mmdet and of its folders, which ask for compiled operators of mmcv, of which there is no
# wheel for this torch.
(path, ) = [Path(file.locate()) for file in files('mmdet') if str(file) == 'mmdet/registry.py']
for name in ('mmdet', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.evaluation.functional', 'mmdet.evaluation.metrics'):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(path.parent.joinpath(*name.split('.')[1:]))]
bbox_overlaps = import_module('mmdet.evaluation.functional.bbox_overlaps').bbox_overlaps
sys.modules['mmdet.evaluation.functional'].bbox_overlaps = bbox_overlaps
gRefCOCOMetric = import_module('mmdet.evaluation.metrics.grefcoco_metric').gRefCOCOMetric
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmdet/evaluation/metrics/grefcoco_metric.py, compute_metrics; data as gRefCOCO\'s converter writes them '
      '(an image for each expression)\n')

BOXES = {'the two on the left': [[10, 10, 20, 20], [40, 10, 20, 20]], 'the dog': [[70, 70, 20, 20]], 'the horse': []}
images, annotations = [], []
for number, (caption, boxes) in enumerate(BOXES.items()):
    images.append(dict(id=number, file_name='1.jpg', width=100, height=100, caption=caption, dataset_name='grefcoco'))
    for box in boxes or [[0, 0, 0, 0]]:
        annotations.append(dict(id=len(annotations), image_id=number, category_id=1 if boxes else -1, bbox=box,
                                area=box[2] * box[3], iscrowd=0, empty=not boxes))
Path('truth.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=[])))


def f1_score(answers):
    with contextlib.redirect_stdout(io.StringIO()):
        metric = gRefCOCOMetric('truth.json')
    for number, boxes in enumerate(answers):
        boxes = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in boxes]).reshape(-1, 4)
        metric.process({}, [dict(img_id=number, pred_instances=dict(bboxes=boxes, scores=torch.ones(len(boxes))))])
    return metric.evaluate(len(answers))['grefcoco/F1_score']


print('"the two on the left" (2 objects), "the dog" (1), "the horse" (none)')
seen = {}
for name, part in {'all objects': slice(None), 'the first alone': slice(1), 'the second alone': slice(1, 2)}.items():
    answers = [boxes[part] if len(boxes) > 1 else boxes for boxes in BOXES.values()]
    # The boxes that are given are right, so that an expression is right if there are as many as objects.
    right = sum(len(one) == len(other) for one, other in zip(answers, BOXES.values())) / len(BOXES)
    seen[name] = round(f1_score(answers), 2), round(right, 2)
    print(f'{name}: F1_score {seen[name][0]:.2f}, with gRefCOCO\'s rule {right:.2f}')
same = seen == {'all objects': (0.67, 1), 'the first alone': (1, 0.67), 'the second alone': (0.67, 0.67)}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
