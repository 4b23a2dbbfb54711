#!/usr/bin/env bash
# supervision: `Detections.from_vlm(VLM.QWEN_2_5_VL, ...)` reads a list of boxes. A model that was asked for one thing
# often answers with one JSON object, in the same fence and with the same keys; that gives no detections and no error,
# as if the model had found nothing. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    supervision==0.31.2 numpy==2.2.6 opencv-python-headless==4.11.0.86

cat > show.py <<'PROGRAM'
import json
import platform
from importlib.metadata import version

import supervision as sv

print(f'supervision {version("supervision")}, Python {platform.python_version()}')
print('source: supervision/detection/vlm.py, from_qwen_2_5_vl\n')
box = dict(bbox_2d=[10, 20, 110, 220], label='dog')
found = {}
for name, answer in (('a list of one', [box]), ('the object itself', box)):
    text = f'```json\n{json.dumps(answer)}\n```'
    detections = sv.Detections.from_vlm(sv.VLM.QWEN_2_5_VL, text, input_wh=(280, 280), resolution_wh=(280, 280))
    found[name] = len(detections)
    print(f'{name:17}: {json.dumps(answer)}: {len(detections)} detections')
same = found == {'a list of one': 1, 'the object itself': 0}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
