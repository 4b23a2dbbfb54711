#!/usr/bin/env bash
# albumentations: numbers in `label_fields` travel as columns of the array of boxes, which is float32. Integers come back
# as floats, and above 2**24 = 16777216 as other numbers: ids of annotations, the usual way to know which boxes are left
# after a crop, are changed or made equal, without a word. Crowds of COCO have such ids (900100259558), and so has any
# set with more than 16.7 million boxes (Objects365, Open Images). Texts are kept, so pass str(id).
# Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   albumentations 2.0.8, NumPy 2.2.6, Python 3.11.7
#   ids [16777216, 16777217, 900100259558]
#   list:           [16777216.0, 16777216.0, 900100259840.0]
#   array of int64: [16777216, 16777216, 900100259840]
#   texts:          ['16777216', '16777217', '900100259558']
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    albumentations==2.0.8 numpy==2.2.6 opencv-python-headless==4.11.0.86

cat > show.py <<'PROGRAM'
import os
import platform
from importlib.metadata import version

os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'
import albumentations as A
import numpy as np

print(f'albumentations {version("albumentations")}, NumPy {np.__version__}, Python {platform.python_version()}')
print("source: Compose([HorizontalFlip(p=1)], BboxParams('coco', label_fields=['ids']))\n")
IDS = [16777216, 16777217, 900100259558]
boxes = [[10, 10, 20, 20], [30, 30, 20, 20], [60, 60, 20, 20]]
print(f'ids {IDS}')
seen = {}
for name, ids in (('list', IDS), ('array of int64', np.array(IDS)), ('texts', list(map(str, IDS)))):
    pipeline = A.Compose([A.HorizontalFlip(p=1)], bbox_params=A.BboxParams('coco', label_fields=['ids']))
    returned = pipeline(image=np.zeros((100, 100, 3), np.uint8), bboxes=boxes, ids=ids)['ids']
    seen[name] = returned if isinstance(returned, list) else returned.tolist()
    print(f'{name}: {seen[name]}')
rounded = [16777216, 16777216, 900100259840]
same = seen == {'list': rounded, 'array of int64': rounded, 'texts': list(map(str, IDS))}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
