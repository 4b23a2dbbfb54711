#!/usr/bin/env bash
# pycocoevalcap: CIDEr weights words by how many images of the same call have them in their references, and a word of all
# images counts nothing. So the perfect caption of a single image has 0 of 10 points, and so has every caption where all
# images of a call have the same references: the usual call in a reward (one image, or a group of answers to one
# prompt). In a small batch, a caption's value depends on the other images. The scorer of the original has weights of
# a whole data set (`df='coco-val'`), this package has none. Exits with 0 while it does, with 1 once it does not.
#
# Seen:
#   pycocoevalcap 1.2, Python 3.11.7
#   perfect captions of one image: CIDEr [0.0]
#   a group of three captions of one image, two of them perfect: CIDEr [0.0, 0.0, 0.0]
#   perfect captions of two images: CIDEr [10.0, 10.0]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: numpy==2.2.6
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps pycocoevalcap==1.2

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

from pycocoevalcap.cider.cider import Cider

print(f'pycocoevalcap {version("pycocoevalcap")}, Python {platform.python_version()}')
print('source: pycocoevalcap/cider/cider_scorer.py, compute_cider\n')
CUP, DOG = 'a blue cup beside a plate', 'a brown dog on the sofa'
seen = []
for name, captions, references in (
        ('perfect captions of one image', [CUP], [CUP]),
        ('a group of three captions of one image, two of them perfect', [CUP, CUP, 'a blue cup'], [CUP] * 3),
        ('perfect captions of two images', [CUP, DOG], [CUP, DOG])):
    _, scores = Cider().compute_score({i: [text] for i, text in enumerate(references)},
                                      {i: [text] for i, text in enumerate(captions)})
    seen.append([round(float(score), 2) for score in scores])
    print(f'{name}: CIDEr {seen[-1]}')
same = seen == [[0.0], [0.0] * 3, [10.0] * 2]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
