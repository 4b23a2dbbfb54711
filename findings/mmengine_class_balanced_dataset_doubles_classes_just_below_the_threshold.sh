#!/usr/bin/env bash
# mmengine: ClassBalancedDataset repeats an image as often as the paper's repeat factor (LVIS, arXiv 1908.03195) rounded
# up, of which its docs, which give the formula, say nothing: 1.005 are 2 images. LVIS's own sampling, and detectron2,
# round at random, so that the mean is the factor. So the classes of all frequencies from a quarter of oversample_thr up
# to it are doubled alike, a class in 99 of 1000 images is seen twice as often as one in 101, and an epoch grows by more
# than the factors tell. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   mmengine 0.10.7, torch 2.14.1, Python 3.11.7
#   1000 images, oversample_thr 0.1
#   class in 101 images: factor 1.000, seen 101 times, by the factor 101.0
#   class in 99 images: factor 1.005, seen 198 times, by the factor 99.5
#   class in 60 images: factor 1.291, seen 120 times, by the factor 77.5
#   class in 26 images: factor 1.961, seen 52 times, by the factor 51.0
#   all: 1185 images an epoch, by the factors 1042.9
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps mmengine==0.10.7

cat > show.py <<'PROGRAM'
import platform
from collections import Counter
from importlib.metadata import version

import torch
from mmengine.dataset import BaseDataset, ClassBalancedDataset

print(f'mmengine {version("mmengine")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: mmengine/dataset/dataset_wrapper.py, full_init: [idx] * math.ceil(repeat_factor)\n')
COUNTS, ALL, THRESHOLD = [101, 99, 60, 26], 1000, 0.1
# One class in each image; the class of the others is in most of them.
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]
LABELS += [len(COUNTS)] * (ALL - len(LABELS))


class Images(BaseDataset):
    def load_data_list(self):
        return [dict(label=label) for label in LABELS]

    def get_cat_ids(self, idx):
        return [self.get_data_info(idx)['label']]


balanced = ClassBalancedDataset(Images(), oversample_thr=THRESHOLD)
seen = Counter(balanced.get_data_info(number)['label'] for number in range(len(balanced)))
print(f'{ALL} images, oversample_thr {THRESHOLD}')
expected = ALL - sum(COUNTS)
for label, count in enumerate(COUNTS):
    factor = max(1, (THRESHOLD * ALL / count) ** 0.5)
    expected += factor * count
    print(f'class in {count} images: factor {factor:.3f}, seen {seen[label]} times, by the factor {factor * count:.1f}')
print(f'all: {len(balanced)} images an epoch, by the factors {expected:.1f}')
same = [seen[label] for label in range(len(COUNTS))] == [101, 198, 120, 52] and len(balanced) == 1185
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
