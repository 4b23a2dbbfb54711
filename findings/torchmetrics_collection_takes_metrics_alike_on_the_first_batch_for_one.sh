#!/usr/bin/env bash
# torchmetrics: which metrics of a MetricCollection share their states (compute_groups=True, the default) is decided by
# the first batch: those whose states are equal then are one metric from there on. So the same metric at two thresholds
# reports one number under both names for the whole evaluation if the first batch happens to hold nothing on which they
# differ, without a word; the docs say that the groups are those of metrics that "share the same metric state". The
# numbers depend on the order of the images. Give compute_groups=False, or the groups. Exits with 0 while it is so, with
# 1 once it is not.
#
# Seen:
#   torchmetrics 1.9.0, torch 2.14.1, Python 3.11.7
#   IoU of a mask that is sure (0.99) and of one that is not (0.7), at thresholds 50% and 90%
#   the sure one first: at 50% 1.00, at 90% 1.00
#   the other first: at 50% 1.00, at 90% 0.50
#   the sure one first, compute_groups=False: at 50% 1.00, at 90% 0.50
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
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryJaccardIndex

print(f'torchmetrics {torchmetrics.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torchmetrics/collections.py, _merge_compute_groups and _equal_metric_states\n')


def values(batches, **options):
    collection = MetricCollection({f'at {percent}%': BinaryJaccardIndex(threshold=percent / 100)
                                   for percent in (50, 90)}, **options)
    for batch in batches:
        collection.update(*batch)
    return {name: round(float(value), 2) for name, value in collection.compute().items()}


def show(name, numbers):
    print(f'{name}: ' + ', '.join(f'{metric} {value:.2f}' for metric, value in numbers.items()))
    return list(numbers.values())


truth = torch.zeros(1, 10, 10, dtype=torch.long)
truth[:, :5] = 1
sure, unsure = [(torch.where(truth == 1, score, 0.01), truth) for score in (0.99, 0.7)]
print('IoU of a mask that is sure (0.99) and of one that is not (0.7), at thresholds 50% and 90%')
seen = [show('the sure one first', values([sure, unsure])),
        show('the other first', values([unsure, sure])),
        show('the sure one first, compute_groups=False', values([sure, unsure], compute_groups=False))]
right, wrong = [1, 0.5], [1, 1]
same = seen == [wrong, right, right]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
