#!/usr/bin/env bash
# mmeval: MeanIoU computes `num_classes * label + prediction` in the type of the label. Label maps as they are read from
# PNG files are uint8, so with more than 16 classes the product wraps around and pixels count for other classes, without
# a word: a prediction that equals the truth has mIoU 0.6 of 19 classes and 0 of 150. A prediction of another type does
# not help, a label of another type does. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.2.6 opencv-python-headless==4.11.0.86 plum-dispatch==1.7.4 PyYAML==6.0.2 \
    rich==13.9.4 scipy==1.15.3
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps mmeval==0.2.1

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import cv2
import numpy as np
from mmeval import MeanIoU

print(f'mmeval {version("mmeval")}, NumPy {np.__version__}, Python {platform.python_version()}')
print('source: MeanIoU(num_classes)([prediction], [label]), both equal to the truth\n')
np.seterr(invalid='ignore')
random = np.random.default_rng(0)
same = True
for number, seen in ((2, 1.0), (16, 1.0), (17, 0.84), (19, 0.59), (21, 0.34), (150, 0.0)):
    cv2.imwrite('label.png', random.integers(0, number, (200, 200)).astype(np.uint8))
    label = cv2.imread('label.png', cv2.IMREAD_UNCHANGED)
    values = {}
    for name, prediction, truth in (('both as read', label, label),
                                    ('prediction int64', label.astype(np.int64), label),
                                    ('label int64', label, label.astype(np.int64))):
        values[name] = round(float(MeanIoU(num_classes=number)([prediction], [truth])['mIoU']), 2)
    print(f'{number:3} classes, {label.dtype}: mIoU', ', '.join(f'{name} {value}' for name, value in values.items()))
    same &= abs(values['both as read'] - seen) < 0.02 and values['label int64'] == 1
    same &= (values['prediction int64'] < 0.97) == (number > 16)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
