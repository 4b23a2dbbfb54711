#!/usr/bin/env bash
# mapcalc: calculate_map and calculate_map_range never read the scores that they ask for: they rank detections in the
# order of the list. So the AP of the same detections depends on how they are listed, and a wrong box of score 0.1 that
# is listed first halves the AP of a detector whose right box has 0.9. Nothing says that lists should be sorted. Exits
# with 0 while it is so, with 1 once it is not.
#
# Seen:
#   mapcalc 0.2.2, Python 3.11.7
#   right 0.9, wrong 0.1: mAP 1.00, over thresholds 1.00; ranked by score it is 1.00
#   wrong 0.1, right 0.9: mAP 0.50, over thresholds 0.50; ranked by score it is 1.00
#   right 0.1, wrong 0.9: mAP 1.00, over thresholds 1.00; ranked by score it is 0.50
#   wrong 0.9, right 0.1: mAP 0.50, over thresholds 0.50; ranked by score it is 0.50
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    mapcalc==0.2.2 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

from mapcalc import calculate_map, calculate_map_range

print(f'mapcalc {version("mapcalc")}, Python {platform.python_version()}')
print('source: mapcalc/main.py, calculate_map: `score` is stored, and read nowhere\n')

TRUTH = dict(boxes=[[10, 10, 30, 30]], labels=[1])
RIGHT, WRONG = [10, 10, 30, 30], [100, 100, 130, 130]


def average(*found):
    """mAP at 0.5 and from 0.5 to 0.95 of boxes with their scores, in this order."""
    result = dict(boxes=[box for box, _ in found], labels=[1] * len(found), scores=[score for _, score in found])
    return (round(float(calculate_map(TRUTH, result, 0.5)), 2),
            round(float(calculate_map_range(TRUTH, result, 0.5, 0.95, 0.05)), 2))


seen = {}
for name, found in {
        'right 0.9, wrong 0.1': [(RIGHT, 0.9), (WRONG, 0.1)],
        'wrong 0.1, right 0.9': [(WRONG, 0.1), (RIGHT, 0.9)],
        'right 0.1, wrong 0.9': [(RIGHT, 0.1), (WRONG, 0.9)],
        'wrong 0.9, right 0.1': [(WRONG, 0.9), (RIGHT, 0.1)]}.items():
    seen[name] = average(*found)
    ranked = sorted(found, key=lambda one: -one[1])
    print(f'{name}: mAP {seen[name][0]:.2f}, over thresholds {seen[name][1]:.2f}; '
          f'ranked by score it is {1 if ranked[0][0] == RIGHT else 0.5:.2f}')
same = list(seen.values()) == [(1, 1), (0.5, 0.5), (1, 1), (0.5, 0.5)]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
