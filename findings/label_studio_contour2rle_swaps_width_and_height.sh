#!/usr/bin/env bash
# Label Studio's SDK: contour2rle(contours, contour_id, img_width, img_height) draws into an array of shape
# (width, height), so the RLE is of the image on its side; read back by the SDK's own reader it marks other
# pixels, and those beyond the shorter side are lost. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.2.6 opencv-python-headless==4.11.0.86 pillow==12.0.0
# Its other modules, and what they need, have no part in this.
env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps label-studio-sdk==2.1.2

cat > show.py <<'PROGRAM'
import importlib.util
import platform
from importlib.metadata import files, version

import numpy as np

path = next(file for file in files('label-studio-sdk') if str(file).endswith('converter/brush.py'))
spec = importlib.util.spec_from_file_location('brush', path.locate())
brush = importlib.util.module_from_spec(spec)
spec.loader.exec_module(brush)

print(f'label-studio-sdk {version("label-studio-sdk")}, numpy {np.__version__}, '
      f'Python {platform.python_version()}')
print('source: label_studio_sdk/converter/brush.py, contour2rle against decode_from_annotation of the same file\n')


def read_back(rle, width, height):
    """As the SDK reads an annotation: its alpha channel."""
    results = [dict(type='brushlabels', brushlabels=['cat'], original_width=width, original_height=height,
                    rle=rle)]
    return next(iter(brush.decode_from_annotation('mask', results).values())) > 0


same = True
for width, height, seen in ((40, 40, 1.0), (40, 20, 0.0)):
    corners = np.array([[30, 4], [37, 4], [37, 11], [30, 11]])  # (x, y)
    wanted = np.zeros((height, width), bool)
    wanted[4:12, 30:38] = True
    got = read_back(brush.contour2rle([corners[:, None]], 0, width, height), width, height)
    overlap = (got & wanted).sum() / (got | wanted).sum()
    same = same and round(float(overlap), 2) == seen
    print(f'a square of 64 pixels in {width} x {height} (width x height): {got.sum()} pixels come back, '
          f'IoU {overlap:.2f}' + ('' if overlap == 1 else '   <- not what was drawn'))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
