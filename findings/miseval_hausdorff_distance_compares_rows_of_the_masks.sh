#!/usr/bin/env bash
# miseval: 'HD', the Hausdorff distance, hands the masks themselves to a function for sets of points, so each row of a
# mask is a point with as many coordinates as the mask has columns. An object that is moved up or down has the same
# rows: its distance is 0 wherever it is. 'AverageHausdorffDistance' is the maximum of the distances, which 'HD' should
# be, not their mean. No word is said about either. Take it for 'HD', and a mean from elsewhere. Exits with 0 while it
# is so, with 1 once it is not.
#
# Seen:
#   miseval 1.3.0, hausdorff 0.2.6, numpy 2.2.6, Python 3.11.7
#   a square of 20 x 20 pixels, found
#   30 rows below: HD 0.00, average 30.00; of the pixels, maximum 30.00, mean 20.50
#   2 columns beside: HD 2.00, average 2.00; of the pixels, maximum 2.00, mean 0.15
#   with a far pixel more: HD 1.00, average 50.00; of the pixels, maximum 50.00, mean 0.06
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numba==0.62.1 numpy==2.2.6 scikit-image==0.25.2 scikit-learn==1.7.2 scipy==1.15.3 setuptools==80.9.0
# There is no wheel of hausdorff.
env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps hausdorff==0.2.6 miseval==1.3.0

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib.metadata import version
from types import ModuleType

import numpy as np
from scipy.spatial.distance import cdist

sys.modules['dictances'] = ModuleType('dictances')  # for its boundary distance, which has no part in this
from miseval import evaluate

print(', '.join(f'{name} {version(name)}' for name in ('miseval', 'hausdorff', 'numpy'))
      + f', Python {platform.python_version()}')
print('source: miseval/hausdorff.py: hausdorff_distance(truth, pred), whose arguments are arrays of points; '
      'calc_AverageHausdorffDistance returns np.max\n')
truth = np.zeros((100, 100), np.uint8)
truth[20:40, 20:40] = 1
far = truth.copy()
far[30, 89] = 1
CASES = {'30 rows below': np.roll(truth, 30, axis=0), '2 columns beside': np.roll(truth, 2, axis=1),
         'with a far pixel more': far}
print('a square of 20 x 20 pixels, found')
seen = {}
for name, found in CASES.items():
    distances = cdist(np.argwhere(truth), np.argwhere(found))
    nearest = np.concatenate([distances.min(axis=0), distances.min(axis=1)])
    seen[name] = [round(float(value), 2) for value in (
        evaluate(truth, found, metric='HD'), evaluate(truth, found, metric='AverageHausdorffDistance'),
        nearest.max(), nearest.mean())]
    print(f'{name}: HD {seen[name][0]:.2f}, average {seen[name][1]:.2f}; '
          f'of the pixels, maximum {seen[name][2]:.2f}, mean {seen[name][3]:.2f}')
same = list(seen.values()) == [[0, 30, 30, 20.5], [2, 2, 2, 0.15], [1, 50, 50, 0.06]]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
