#!/usr/bin/env bash
# torchmetrics: the binary metrics take scores or logits ("if preds has values outside [0,1] range we consider the input
# to be logits"). That is decided anew in each update: an image whose logits all happen to lie within 0 and 1, as those
# of an unsure model do, is read as probabilities, and its pixels of logit 0.2 (probability 0.55) are background. So
# the numbers depend on the split into batches, without a word, and with one image per update it is the unsure images
# that are counted wrong. Apply the sigmoid yourself. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   torchmetrics 1.9.0, torch 2.14.1, Python 3.11.7
#   two masks that are right at logit 0, one of them unsure
#   logits, one update of 2: BinaryJaccardIndex 1.00, BinaryF1Score 1.00, BinaryCalibrationError 0.21
#   logits, 2 updates of 1: BinaryJaccardIndex 0.50, BinaryF1Score 0.67, BinaryCalibrationError 0.30
#   probabilities, 2 updates of 1: BinaryJaccardIndex 1.00, BinaryF1Score 1.00, BinaryCalibrationError 0.21
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torchmetrics==1.9.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings

warnings.simplefilter('ignore')
import torch
import torchmetrics
from torchmetrics.classification import BinaryCalibrationError, BinaryF1Score, BinaryJaccardIndex

print(f'torchmetrics {torchmetrics.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torchmetrics/utilities/compute.py, normalize_logits_if_needed, called by each update\n')
# Of the first image, in which the object fills the picture, the model is unsure.
logits = torch.tensor([[0.2, 0.3, 0.3, 0.4, 0.9], [4, 4, 3, -3, -4]])
truth = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def values(scores, size):
    numbers = []
    for metric in (BinaryJaccardIndex(), BinaryF1Score(), BinaryCalibrationError()):
        for batch in zip(scores.split(size), truth.split(size)):
            metric.update(*batch)
        numbers.append(round(float(metric.compute()), 2))
    return numbers


print('two masks that are right at logit 0, one of them unsure')
seen = {'logits, one update of 2': values(logits, 2), 'logits, 2 updates of 1': values(logits, 1),
        'probabilities, 2 updates of 1': values(logits.sigmoid(), 1)}
for name, numbers in seen.items():
    print(f'{name}: ' + ', '.join(f'{metric} {number:.2f}' for metric, number in zip(
        ('BinaryJaccardIndex', 'BinaryF1Score', 'BinaryCalibrationError'), numbers)))
one, split, right = seen.values()
# 4 of the 8 pixels of objects are missed: those of logits up to 0.5.
same = one == right and one[0] == 1 and split[0] == 0.5
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
