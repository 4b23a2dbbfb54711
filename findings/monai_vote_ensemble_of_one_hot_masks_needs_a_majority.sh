#!/usr/bin/env bash
# monai: VoteEnsemble, which "will vote to select the most common data", selects it for label maps with num_classes
# only. One-hot masks, the other format of its docs, are averaged and rounded: a pixel whose most common class has half
# of the votes or less gets no class at all, not even background, without a word. So of the same votes the two formats
# give different masks, and argmax of the result calls such pixels background, class 0. Convert to label maps first.
# Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   monai 1.6.1, torch 2.13.0, Python 3.11.7
#   label maps, num_classes=4: classes [1, 1, 1, 1]
#   one-hot masks: classes of each pixel [1.0, 1.0, 0.0, 0.0], argmax [1, 1, 0, 0]
#   one-hot masks of two models that disagree (background, foreground): [0.0, 0.0]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    monai==1.6.1 torch==2.13.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings

warnings.simplefilter('ignore')
import monai
import torch
from monai.networks.utils import one_hot
from monai.transforms import VoteEnsemble

print(f'monai {monai.__version__}, torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: monai/transforms/post/array.py, VoteEnsemble\n')
# Classes that five models give to four pixels: class 1 has five, three, two, and two of the votes.
VOTES = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 2, 2], [1, 2, 3, 3]])
CLASSES = 4
labels = VoteEnsemble(num_classes=CLASSES)(list(VOTES[:, None])).flatten().tolist()
hot = VoteEnsemble()([one_hot(votes[None], CLASSES, dim=0) for votes in VOTES])
classes = hot.argmax(0).tolist()
number = hot.sum(0).tolist()
print(f'label maps, num_classes={CLASSES}: classes {labels}')
print(f'one-hot masks: classes of each pixel {number}, argmax {classes}')
# Two models, one class of foreground: background and foreground both have half of the votes.
pair = VoteEnsemble()([torch.tensor([[1.], [0.]]), torch.tensor([[0.], [1.]])]).flatten().tolist()
print(f'one-hot masks of two models that disagree (background, foreground): {pair}')
same = labels == [1, 1, 1, 1] and number == [1.0, 1.0, 0.0, 0.0] and classes == [1, 1, 0, 0] and pair == [0.0, 0.0]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
