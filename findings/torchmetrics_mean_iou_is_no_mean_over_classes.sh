#!/usr/bin/env bash
# torchmetrics: segmentation.MeanIoU averages over pairs of an image and a class that occurs in it, not over classes, as
# its docs say and as mIoU is defined: a class counts by the number of its images. A model that never finds the classes
# of few images still has 0.96, without a word, where the mean of its own per_class values is 0.49. Those in turn are
# means over images, not intersection and union summed up over the data set, as in PASCAL VOC, Cityscapes, ADE20K,
# mmseg, or JaccardIndex of torchmetrics, so that a few wrong pixels of an image without the class cost a whole image.
# Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   torchmetrics 1.9.0, torch 2.13.0, Python 3.11.7
#   all is called road: [0.961, 0.49, 0.49]
#   one wrong pixel in each image without water: [0.748, 0.747, 0.987]
#   (MeanIoU, mean of MeanIoU(per_class=True), JaccardIndex)
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torchmetrics==1.9.0 torch==2.13.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings
from importlib.metadata import version

warnings.simplefilter('ignore')
import torch
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

print(f'torchmetrics {version("torchmetrics")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torchmetrics/segmentation/mean_iou.py; docs of per_class: "If set to False, the metric will compute the '
      'mean IoU over all classes"\n')
IMAGES = 100


def measure(predicted, true):
    """MeanIoU, the mean of its values per class, and the mean over classes of the summed up pixels."""
    seen = []
    for metric in (MeanIoU(num_classes=2, input_format='index'),
                   MeanIoU(num_classes=2, input_format='index', per_class=True),
                   MulticlassJaccardIndex(num_classes=2)):
        metric.update(predicted, true)
        seen.append(round(float(metric.compute().mean()), 3))
    return seen


rare = torch.zeros(IMAGES, 10, 10, dtype=torch.int64)
rare[:2] = 1  # road in 98 images, water in two
print(f'all is called road: {(missed := measure(torch.zeros_like(rare), rare))}')
common = torch.zeros(IMAGES, 10, 10, dtype=torch.int64)
common[:50, :5] = 1  # half of each of 50 images is water
noisy = common.clone()
noisy[50:, 0, 0] = 1  # one wrong pixel in each of the others
print(f'one wrong pixel in each image without water: {(wrong := measure(noisy, common))}')
print('(MeanIoU, mean of MeanIoU(per_class=True), JaccardIndex)')
same = missed == [0.961, 0.49, 0.49] and wrong[1] < 0.76 and wrong[2] > 0.98
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
