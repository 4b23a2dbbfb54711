#!/usr/bin/env bash
# torchmetrics: MeanAveragePrecision(average='micro') ("method for averaging scores over labels", as its docs say) does
# not average over labels: it sets the label of every box to 0, so a detector that finds each object and confuses all
# classes has mAP 1.0, without a word. As `micro` of every other metric of torchmetrics counts confusions, a sensible
# reader takes it for the mAP weighted by the number of objects. Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   torchmetrics 1.9.0, pycocotools 2.0.11, Python 3.11.7
#   right labels, macro: map, map_50, mar_100: [1.0, 1.0, 1.0]
#   right labels, micro: map, map_50, mar_100: [1.0, 1.0, 1.0]
#   swapped labels, macro: map, map_50, mar_100: [0.0, 0.0, 0.0]
#   swapped labels, micro: map, map_50, mar_100: [1.0, 1.0, 1.0]
#   swapped labels: MulticlassAccuracy(average='micro') 0.00
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter('ignore')
import torch
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.detection import MeanAveragePrecision

print(f'torchmetrics {version("torchmetrics")}, pycocotools {version("pycocotools")}, '
      f'Python {platform.python_version()}')
print('source: torchmetrics/detection/mean_ap.py, MeanAveragePrecision(average=...)\n')
boxes = torch.tensor([[0., 0, 40, 40], [50, 50, 90, 90]])
cats_and_dogs = torch.tensor([0, 1])
truth = [dict(boxes=boxes, labels=cats_and_dogs)]
seen = {}
for name, labels in (('right', cats_and_dogs), ('swapped', cats_and_dogs.flip(0))):
    for average in ('macro', 'micro'):
        metric = MeanAveragePrecision(average=average)
        metric.update([dict(boxes=boxes, labels=labels, scores=torch.tensor([0.9, 0.8]))], truth)
        values = metric.compute()
        seen[name, average] = [round(float(values[key]), 2) for key in ('map', 'map_50', 'mar_100')]
        print(f'{name} labels, {average}: map, map_50, mar_100: {seen[name, average]}')
accuracy = float(MulticlassAccuracy(2, average='micro')(cats_and_dogs.flip(0), cats_and_dogs))
print(f"swapped labels: MulticlassAccuracy(average='micro') {accuracy:.2f}")
same = accuracy == 0 and seen == {('right', 'macro'): [1.0] * 3, ('right', 'micro'): [1.0] * 3,
                                  ('swapped', 'macro'): [0.0] * 3, ('swapped', 'micro'): [1.0] * 3}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
