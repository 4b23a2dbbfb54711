#!/usr/bin/env bash
# segmentation-models-pytorch: DiceLoss (and JaccardLoss, TverskyLoss) of a batch is one Dice of all its pixels, not the
# mean over the images, and 0 if none of them has an object; of neither do the docs tell. So an object of 25 pixels that
# is missed costs 0.001 beside a large one that is found, and 1 alone; a mask where nothing is costs nothing, and has no
# gradient, in a batch of such images (or of one image), and a third beside another. The loss, and what is learned of
# small and of absent objects, depends on the batch size. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   segmentation-models-pytorch 0.6.0, torch 2.14.1, Python 3.11.7
#   DiceLoss of batches, and the mean over their images
#   a large object found, a small one missed: 0.001, mean of the two 0.500
#   no object, but a mask: 0.000, largest gradient 0
#   no object, but a mask, and a large object found: 0.333
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 numpy==2.2.6
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
    segmentation-models-pytorch==0.6.0

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

import torch

# Without the __init__.py of the package, which asks for the encoders of timm.
(path, ) = [Path(file.locate()) for file in files('segmentation-models-pytorch')
            if str(file) == 'segmentation_models_pytorch/losses/__init__.py']
sys.modules['segmentation_models_pytorch'] = ModuleType('segmentation_models_pytorch')
sys.modules['segmentation_models_pytorch'].__path__ = [str(path.parent.parent)]
from segmentation_models_pytorch.losses import DiceLoss

print(f'segmentation-models-pytorch {version("segmentation-models-pytorch")}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: segmentation_models_pytorch/losses/dice.py: dims = (0, 2), and loss *= mask\n')


def mask(height, width):
    image = torch.zeros(1, 1, 100, 100)
    image[..., :height, :width] = 1
    return image


def logits(*masks):
    return torch.cat([torch.where(image == 1, 20., -20.) for image in masks])


def loss(found, objects):
    return round(float(DiceLoss('binary')(logits(*found), torch.cat(objects))), 3)


large, small, none = mask(100, 90), mask(5, 5), mask(0, 0)
together = loss([large, none], [large, small])
alone = (loss([large], [large]) + loss([none], [small])) / 2
unsure = torch.zeros(1, 1, 100, 100, requires_grad=True)
DiceLoss('binary')(unsure, none).backward()
gradient = float(unsure.grad.abs().max())
empty, beside = loss([large], [none]), loss([large, large], [none, large])
print(f'DiceLoss of batches, and the mean over their images\n'
      f'a large object found, a small one missed: {together:.3f}, mean of the two {alone:.3f}\n'
      f'no object, but a mask: {empty:.3f}, largest gradient {gradient:g}\n'
      f'no object, but a mask, and a large object found: {beside:.3f}')
same = (together, alone, empty, gradient, beside) == (0.001, 0.5, 0, 0, 0.333)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
