#!/usr/bin/env bash
# seg-metrics: the surface distances of an empty mask are 0. So a model that finds nothing, and one that finds an object
# where none is, have the best Hausdorff and mean surface distance there is, and the means over a data set get better
# with each object that is not found. The warnings about empty masks speak of Dice, precision and recall alone, and
# are not given where distances alone are asked for. Leave such images out of the means of distances, or count them
# with the diagonal of the image. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   seg-metrics 1.2.8, SimpleITK 2.5.3, numpy 2.2.6, Python 3.11.7
#   2 pixels beside the object: dice 0.90, hd 2.00, hd95 2.00, msd 1.00
#   nothing found: dice 0.00, hd 0.00, hd95 0.00, msd 0.00
#   an object found where none is: dice 0.00, hd 0.00, hd95 0.00, msd 0.00
#   nothing found where none is: dice 1.00, hd 0.00, hd95 0.00, msd 0.00
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    SimpleITK==2.5.3 matplotlib==3.10.7 numpy==2.2.6 pandas==2.3.3 scipy==1.15.3 tqdm==4.67.1
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    medutils==0.1.21 seg-metrics==1.2.8

cat > show.py <<'PROGRAM'
import logging
import platform
import sys
from importlib.metadata import version
from types import ModuleType

import numpy as np

sys.modules['pingouin'] = ModuleType('pingouin')  # statistics, which have no part in this
from seg_metrics import seg_metrics

logging.disable()
print(', '.join(f'{name} {version(name)}' for name in ('seg-metrics', 'SimpleITK', 'numpy'))
      + f', Python {platform.python_version()}')
print('source: seg_metrics.write_metrics; computeQualityMeasures sets the distance map of an empty mask to 0\n')
METRICS = ['dice', 'hd', 'hd95', 'msd']
truth = np.zeros((64, 64), np.uint8)
truth[20:40, 20:40] = 1
near = np.roll(truth, 2, axis=1)
empty = np.zeros_like(truth)
CASES = {'2 pixels beside the object': (near, truth), 'nothing found': (empty, truth),
         'an object found where none is': (truth, empty), 'nothing found where none is': (empty, empty)}
seen = {}
for name, (found, reference) in CASES.items():
    values = seg_metrics.write_metrics([1], gdth_img=reference, pred_img=found, metrics=list(METRICS))
    values = values[0] if isinstance(values, list) else values
    seen[name] = [round(float(np.ravel(values[key])[0]), 2) for key in METRICS]
    print(f'{name}: ' + ', '.join(f'{key} {value:.2f}' for key, value in zip(METRICS, seen[name])))
same = list(seen.values()) == [[0.9, 2, 2, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
