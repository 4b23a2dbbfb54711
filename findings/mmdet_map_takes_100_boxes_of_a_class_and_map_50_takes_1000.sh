#!/usr/bin/env bash
# mmdet: CocoMetric sets `maxDets` to (100, 300, 1000), of which pycocotools takes 100 for mAP and the last, 1000, for
# mAP_50, mAP_75, and those of sizes. So the columns of one line are of different sets of boxes where an image has more
# than 100 of a class (people in a crowd, goods on a shelf): a detector that finds all there is has a mAP of 0.66 beside
# 1.00 in all others, where COCO's rule, 100 for each, gives 0.66 everywhere. With classwise=True, the AP of the only
# class is not the mAP, but 1.00. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   mmdet 3.3.0, mmengine 0.10.7, pycocotools 2.0.11, Python 3.11.7
#   100 people, all found: mAP 1.00, mAP_50 1.00, mAP_75 1.00, mAP_s 1.00, AP of the only class 1.00; COCO's mAP 1.00,
#     mAP_50 1.00
#   150 people, all found: mAP 0.66, mAP_50 1.00, mAP_75 1.00, mAP_s 1.00, AP of the only class 1.00; COCO's mAP 0.66,
#     mAP_50 0.66
#   400 people, all found: mAP 0.26, mAP_50 1.00, mAP_75 1.00, mAP_s 1.00, AP of the only class 1.00; COCO's mAP 0.26,
#     mAP_50 0.26
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 pycocotools==2.0.11 \
    PyYAML==6.0.2 rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 terminaltables==3.1.10 tqdm==4.70.1 yapf==0.43.0
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
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

logging.disable()
# Without the __init__.py of mmdet and of its folders, which ask for compiled operators of mmcv, of which there is no
# wheel for this torch. The functions for masks and proposals are not called.
(path, ) = [Path(file.locate()) for file in files('mmdet') if str(file) == 'mmdet/registry.py']
for name in ('mmdet', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.evaluation.functional', 'mmdet.evaluation.metrics',
             'mmdet.structures', 'mmdet.structures.mask'):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(path.parent.joinpath(*name.split('.')[1:]))]
sys.modules['mmdet.structures.mask'].encode_mask_results = None
sys.modules['mmdet.evaluation.functional'].eval_recalls = None
CocoMetric = import_module('mmdet.evaluation.metrics.coco_metric').CocoMetric
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print('source: mmdet/evaluation/metrics/coco_metric.py, CocoMetric(proposal_nums=(100, 300, 1000)); '
      'pycocotools/cocoeval.py, summarize\n')


def evaluate(count):
    """Metrics of mmdet, and COCO's mAP and mAP_50 in percent, of a detector that finds all of `count` objects."""
    boxes = [[10 * (n % 20), 10 * (n // 20), 8, 8] for n in range(count)]
    truth = dict(images=[dict(id=1, width=200, height=200, file_name='1.jpg')], categories=[dict(id=1, name='person')],
                 annotations=[dict(id=n + 1, image_id=1, category_id=1, bbox=box, area=64, iscrowd=0)
                              for n, box in enumerate(boxes)])
    Path('truth.json').write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric('truth.json', metric='bbox', classwise=True)
        metric.dataset_meta = dict(classes=('person', ))
        scores = torch.linspace(0.9, 0.1, count)
        metric.process({}, [dict(img_id=1, ori_shape=(200, 200), pred_instances=dict(
            bboxes=torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float(), scores=scores,
            labels=torch.zeros(count).long()))])
        found = metric.evaluate(1)
        coco = COCO('truth.json')
        run = COCOeval(coco, coco.loadRes([dict(image_id=1, category_id=1, bbox=box, score=score)
                                           for box, score in zip(boxes, scores.tolist())]), 'bbox')
        run.evaluate(), run.accumulate(), run.summarize()
    names = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', 'bbox_mAP_s', 'person_precision')
    return [round(float(found[f'coco/{name}']), 2) for name in names], [round(float(x), 2) for x in run.stats[:2]]


seen = {}
for count in (100, 150, 400):
    found, coco = seen[count] = evaluate(count)
    print(f'{count} people, all found: mAP {found[0]:.2f}, mAP_50 {found[1]:.2f}, mAP_75 {found[2]:.2f}, '
          f'mAP_s {found[3]:.2f}, AP of the only class {found[4]:.2f}; COCO\'s mAP {coco[0]:.2f}, mAP_50 {coco[1]:.2f}')
same = seen == {100: ([1, 1, 1, 1, 1], [1, 1]), 150: ([0.66, 1, 1, 1, 1], [0.66, 0.66]),
                400: ([0.26, 1, 1, 1, 1], [0.26, 0.26])}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
