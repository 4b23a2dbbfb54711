#!/usr/bin/env bash
# mmdet: CocoDataset numbers the labels by the order of the categories in the file, not by the order of
# metainfo['classes'], which the docs ask users to set. mmdet looks up names, and the texts of grounding models, by
# dataset_meta['classes'][label]: so wherever the two orders differ, boxes are drawn with names of other classes, and
# GroundingDINO or GLIP is trained and scored with texts of other classes, without a word. A class that the file lacks
# (a typo) shifts all after it. List the classes in the order of the file. Exits with 0 while it is so, with 1 once it
# is not.
#
# Seen:
#   mmdet 3.3.0, mmengine 0.10.7, Python 3.11.7
#   classes=('cat', 'dog', 'mug'): the cat is called cat, the dog is called dog, the mug is called mug
#   classes=('mug', 'cat', 'dog'): the cat is called mug, the dog is called cat, the mug is called dog
#   classes=('cup', 'dog', 'mug'): the dog is called cup, the mug is called dog
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.13.0 addict==2.4.0 matplotlib==3.10.7 numpy==2.2.6 opencv-python-headless==4.11.0.86 pycocotools==2.0.11 \
    PyYAML==6.0.2 rich==13.9.4 setuptools==80.9.0 termcolor==2.5.0 tqdm==4.70.1 yapf==0.43.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    mmengine==0.10.7 mmdet==3.3.0

cat > show.py <<'PROGRAM'
import contextlib
import io
import json
import logging
import platform
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

logging.disable()
# Without mmdet/__init__.py and mmdet/datasets/__init__.py, which ask for compiled operators of mmcv, of which there is
# no wheel for this torch.
(path, ) = [Path(file.locate()) for file in files('mmdet') if str(file) == 'mmdet/datasets/coco.py']
for name, folder in {'mmdet': path.parents[1], 'mmdet.datasets': path.parent}.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]
CocoDataset = import_module('mmdet.datasets.coco').CocoDataset
print(f'mmdet {version("mmdet")}, mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmdet/datasets/coco.py, load_data_list: cat2label of get_cat_ids(cat_names=metainfo["classes"])\n')

NAMES = {1: 'cat', 2: 'dog', 3: 'mug'}
Path('truth.json').write_text(json.dumps(dict(
    images=[dict(id=1, file_name='1.jpg', width=100, height=100)],
    categories=[dict(id=number, name=name) for number, name in NAMES.items()],
    annotations=[dict(id=number, image_id=1, category_id=number, bbox=[10 * number, 0, 9, 9], area=81, iscrowd=0)
                 for number in NAMES])))


def names(*classes):
    """Name of the class of each object: the true one, and the one that its label stands for."""
    with contextlib.redirect_stdout(io.StringIO()):
        data = CocoDataset(ann_file='truth.json', metainfo=dict(classes=classes), data_prefix=dict(img=''),
                           return_classes=True)
    sample = data.get_data_info(0)
    assert sample['text'] == classes  # what a grounding model is asked
    return {NAMES[item['bbox'][0] // 10]: sample['text'][item['bbox_label']] for item in sample['instances']}


cases = [('cat', 'dog', 'mug'), ('mug', 'cat', 'dog'), ('cup', 'dog', 'mug')]
seen = []
for classes in cases:
    seen.append(names(*classes))
    print(f'classes={classes}: ' + ', '.join(f'the {true} is called {name}' for true, name in seen[-1].items()))
same = seen == [dict(cat='cat', dog='dog', mug='mug'), dict(cat='mug', dog='cat', mug='dog'),
                dict(dog='cup', mug='dog')]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
