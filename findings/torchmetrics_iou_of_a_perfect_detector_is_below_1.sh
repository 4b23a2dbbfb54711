#!/usr/bin/env bash
# torchmetrics: IntersectionOverUnion, "computes Intersection Over Union between predicted and true boxes", does not
# match boxes. It averages over all pairs of a predicted and a true box of one label: the boxes of a perfect detector
# score 1 / n with n objects of a class in an image, without a word, and GIoU, DIoU, and CIoU go below 0. One poor box
# can score higher, so it must not choose a checkpoint. Use MeanAveragePrecision, or match the boxes yourself. Exits
# with 0 while it is so, with 1 once it is not.
#
# Seen:
#   torchmetrics 1.9.0, torchvision 0.29.1, Python 3.11.7
#   1 objects of one class, all boxes exact: iou 1.0, giou 1.0
#   2 objects of one class, all boxes exact: iou 0.5, giou 0.33
#   4 objects of one class, all boxes exact: iou 0.25, giou -0.11
#   10 objects of one class, all boxes exact: iou 0.1, giou -0.5
#   4 objects of one class, one box around all of them: iou 0.14, giou 0.14
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter('ignore')
import torch
from torchmetrics.detection import GeneralizedIntersectionOverUnion, IntersectionOverUnion

print(f'torchmetrics {version("torchmetrics")}, torchvision {version("torchvision")}, '
      f'Python {platform.python_version()}')
print('source: torchmetrics/detection/iou.py, compute(): mean of the matrix of all pairs of one label\n')


def objects(number):
    left = 100. * torch.arange(number)
    return torch.stack([left, torch.zeros(number), left + 50, torch.full((number, ), 50.)], 1)


def score(metric, predicted, true):
    metric.update([dict(boxes=predicted, labels=torch.zeros(len(predicted), dtype=torch.int64))],
                  [dict(boxes=true, labels=torch.zeros(len(true), dtype=torch.int64))])
    (value, ) = metric.compute().values()
    return round(float(value), 2)


perfect = {number: (score(IntersectionOverUnion(), objects(number), objects(number)),
                    score(GeneralizedIntersectionOverUnion(), objects(number), objects(number)))
           for number in (1, 2, 4, 10)}
for number, (iou, giou) in perfect.items():
    print(f'{number} objects of one class, all boxes exact: iou {iou}, giou {giou}')
large = torch.tensor([[0., 0, 350, 50]])
poor = score(IntersectionOverUnion(), large, objects(4)), score(GeneralizedIntersectionOverUnion(), large, objects(4))
print(f'4 objects of one class, one box around all of them: iou {poor[0]}, giou {poor[1]}')
same = ([iou for iou, _ in perfect.values()] == [1.0, 0.5, 0.25, 0.1] and perfect[10][1] < 0
        and poor[1] > perfect[4][1])
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
