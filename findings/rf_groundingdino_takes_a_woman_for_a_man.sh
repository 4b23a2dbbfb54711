#!/usr/bin/env bash
# rf-groundingdino (Roboflow's package of Grounding DINO): `Model.predict_with_classes` gives a box the first class whose
# name is a part of the phrase that was found, letter by letter. Exact names that come later in the list are not looked
# at: after 'man', each 'woman' is a man; after 'car', each 'carrot' and 'cart' is a car; after 'dog', a 'hot dog' is a
# dog. No warning is given, and another order of the same classes gives other results. Exits with 0 while it does, with 1
# once it does not.
#
# Seen:
#   rf-groundingdino 0.3.0, Python 3.11.7
#   classes man, woman, car, carrot, dog, hot dog:
#     phrase 'man' -> man, 'woman' -> man, 'car' -> car, 'carrot' -> car, 'dog' -> dog, 'hot dog' -> dog
#   classes hot dog, dog, carrot, car, woman, man:
#     phrase 'man' -> man, 'woman' -> woman, 'car' -> car, 'carrot' -> carrot, 'dog' -> dog, 'hot dog' -> hot dog
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: numpy==2.2.6
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps rf-groundingdino==0.3.0

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib.metadata import distribution, version
from types import ModuleType
from unittest.mock import MagicMock

# The file by itself: the model and what else it imports take no part in the choice of a class.
for name in ('cv2', 'supervision', 'torch', 'PIL', 'torchvision', 'torchvision.ops', 'groundingdino.datasets',
             'groundingdino.datasets.transforms', 'groundingdino.models', 'groundingdino.util.misc',
             'groundingdino.util.slconfig', 'groundingdino.util.utils'):
    sys.modules[name] = MagicMock()
sys.modules['groundingdino'] = ModuleType('groundingdino')
sys.modules['groundingdino'].__path__ = [str(distribution('rf-groundingdino').locate_file('groundingdino'))]
from groundingdino.util.inference import Model

print(f'rf-groundingdino {version("rf-groundingdino")}, Python {platform.python_version()}')
print('source: groundingdino/util/inference.py, Model.phrases2classes\n')
CLASSES = ['man', 'woman', 'car', 'carrot', 'dog', 'hot dog']
seen = []
for classes in (CLASSES, CLASSES[::-1]):
    numbers = Model.phrases2classes(phrases=CLASSES, classes=classes).tolist()
    seen.append([classes[number] for number in numbers])
    print(f'classes {", ".join(classes)}:\n  phrase ' + ', '.join(
        f'{phrase!r} -> {name}' for phrase, name in zip(CLASSES, seen[-1])))
same = seen == [['man', 'man', 'car', 'car', 'dog', 'dog'], CLASSES]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
