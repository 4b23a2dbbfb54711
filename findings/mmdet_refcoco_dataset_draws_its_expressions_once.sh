#!/usr/bin/env bash
# mmdet: RefCocoDataset's default, text_mode='random' ("random select one text"), draws one expression for each object
# while the annotations are loaded, and keeps it in all epochs: of RefCOCO's three expressions an object, two are never
# trained on, without a word, and another seed is another data set, for a test too. 'concat' joins the expressions with
# no blank between ("man on leftguy in red"), so that two words become one that no expression has. Take 'original', or
# 'select_first' for a test, as mmdet's configs do. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   mmdet 3.3.0, mmengine 0.10.7, Python 3.11.7
#   40 objects with 3 expressions each; expressions seen in 20 epochs:
#   text_mode='random': 40 of 120, the same in each epoch
#   text_mode='original': 120 of 120, the same in each epoch
#   with another seed, 'random' has 21 other expressions
#   text_mode='concat': 'man 0 on leftguy 0 in redthe tall one 0'
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 PyYAML==6.0.2 \
    rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmdet==3.3.0

cat > show.py <<'PROGRAM'
import json
import logging
import pickle
import platform
import random
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

logging.disable()
# Without mmdet/__init__.py and mmdet/datasets/__init__.py, which ask for compiled operators of mmcv, of which there is
# no wheel for this torch.
(path, ) = [Path(file.locate()) for file in files('mmdet') if str(file) == 'mmdet/datasets/refcoco.py']
for name, folder in {'mmdet': path.parents[1], 'mmdet.datasets': path.parent}.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]
RefCocoDataset = import_module('mmdet.datasets.refcoco').RefCocoDataset
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmdet/datasets/refcoco.py, load_data_list\n')

OBJECTS, EPOCHS = 40, 20
Path('instances.json').write_text(json.dumps(dict(
    images=[dict(id=number, file_name=f'{number}.jpg', width=10, height=10) for number in range(OBJECTS)],
    annotations=[dict(id=number, image_id=number, category_id=1, bbox=[0, 0, 5, 5], area=25, iscrowd=0,
                      segmentation=[[0, 0, 5, 0, 5, 5, 0, 5]]) for number in range(OBJECTS)])))
Path('refs.p').write_bytes(pickle.dumps([
    dict(ref_id=number, ann_id=number, image_id=number, split='train', sentences=[
        dict(raw=text) for text in (f'man {number} on left', f'guy {number} in red', f'the tall one {number}')])
    for number in range(OBJECTS)]))


def load(mode, seed=0):
    random.seed(seed)
    return RefCocoDataset('', 'instances.json', 'refs.p', dict(img_path=''), text_mode=mode)


def epoch(data):
    return {text for sample in data for text in sample['text']}


print(f'{OBJECTS} objects with 3 expressions each; expressions seen in {EPOCHS} epochs:')
seen = {}
for mode in ('random', 'original'):
    data = load(mode)
    epochs = [epoch(data) for _ in range(EPOCHS)]
    seen[mode] = len(set.union(*epochs)), all(texts == epochs[0] for texts in epochs)
    print(f'text_mode={mode!r}: {seen[mode][0]} of {3 * OBJECTS}, '
          f'{"the same" if seen[mode][1] else "others"} in each epoch')
other = len(epoch(load('random', seed=1)) - epoch(load('random')))
print(f"with another seed, 'random' has {other} other expressions")
(text, ) = load('concat')[0]['text']
print(f"text_mode='concat': {text!r}")
same = (seen == dict(random=(OBJECTS, True), original=(3 * OBJECTS, True)) and other > 0
        and text == 'man 0 on leftguy 0 in redthe tall one 0')
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
