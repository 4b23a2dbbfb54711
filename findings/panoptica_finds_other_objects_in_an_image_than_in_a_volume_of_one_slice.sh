#!/usr/bin/env bash
# panoptica: the objects of a semantic mask are its connected components, by default from scipy for an image and from
# cc3d for a volume. The docs name the two, not that they differ: scipy joins pixels with a side in common, of whatever
# classes; cc3d also pixels that touch at a corner, but no two classes. So the same mask has other objects, and another
# panoptic quality, as (height, width) than as (1, height, width), without a word: a thin slanting object falls into
# pieces, and classes that touch are one object, in the image alone. Choose one `cca_backend` for both. Exits with 0
# while it is so, with 1 once it is not.
#
# Seen:
#   panoptica 2.1.7, scipy 1.15.3, connected-components-3d 3.24.0, Python 3.11.7
#   a slanting line, found but for its end, (height, width): 20 objects, 19 found, PQ 0.97
#   a slanting line, found but for its end, (1, height, width): 1 objects, 1 found, PQ 0.95
#   two classes side by side, one of them found, (height, width): 1 objects, 1 found, PQ 0.00
#   two classes side by side, one of them found, (1, height, width): 2 objects, 1 found, PQ 0.67
#   and with cca_backend=cc3d in 2D as in 3D, with scipy in 3D as in 2D
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.2.6 connected-components-3d==3.24.0 scipy==1.15.3 rich==13.9.4 scikit-image==0.25.2 ruamel.yaml==0.18.10 \
    plotly==5.24.1 pandas==2.3.3 typer==0.15.4 tqdm==4.67.1
# There is no wheel of it.
env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps panoptica==2.1.7

cat > show.py <<'PROGRAM'
import contextlib
import io
import os
import platform
from importlib.metadata import version

os.environ['PANOPTICA_CITATION_REMINDER'] = 'false'
import numpy as np
from panoptica import (
    CCABackend,
    ConnectedComponentsInstanceApproximator,
    InputType,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
)

print(', '.join(f'{name} {version(name)}' for name in ('panoptica', 'scipy', 'connected-components-3d'))
      + f', Python {platform.python_version()}')
print('source: panoptica/_functionals.py, _connected_components\n')


def numbers(found, truth, backend=None):
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC, instance_matcher=NaiveThresholdMatching(),
        instance_approximator=ConnectedComponentsInstanceApproximator(cca_backend=backend))
    with contextlib.redirect_stdout(io.StringIO()):
        result = evaluator.evaluate(found, truth, verbose=False)['ungrouped']
    return result.n_ref_instances, result.n_pred_instances, round(float(result.pq), 2)


line = np.eye(20, dtype=np.uint8)
part = line.copy()
part[-1] = 0
classes = np.zeros((20, 20), np.uint8)
classes[5:15, 2:8], classes[5:15, 8:18] = 1, 2
half = np.where(classes == 1, 1, 0).astype(np.uint8)
CASES = {'a slanting line, found but for its end': (part, line),
         'two classes side by side, one of them found': (half, classes)}
seen = {}
for name, (found, truth) in CASES.items():
    seen[name] = (numbers(found, truth), numbers(found[None], truth[None]),
                  numbers(found, truth, CCABackend.cc3d), numbers(found[None], truth[None], CCABackend.scipy))
    for kind, (objects, detected, quality) in zip(
            ('(height, width)', '(1, height, width)', '(height, width), cc3d', '(1, height, width), scipy'),
            seen[name]):
        print(f'{name}, {kind}: {objects} objects, {detected} found, PQ {quality:.2f}')
flat, deep = [(20, 19, 0.97), (1, 1, 0)], [(1, 1, 0.95), (2, 1, 0.67)]
same = list(seen.values()) == [(one, other, other, one) for one, other in zip(flat, deep)]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
