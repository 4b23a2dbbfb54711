#!/usr/bin/env bash
# torchvision: transforms.v2 casts boxes of an integer dtype, as they come from VOC files or from torch.tensor([[10, 20,
# 30, 40]]), back after each resize by cutting off the fraction instead of rounding. So they move up and to the left, by
# half a pixel on average with every resize, without a word, and a chain of resizes drifts on; the mask of the same
# sample stays in place. Small objects lose most. Make boxes float32. Exits with 0 while it is so, with 1 once it is
# not.
#
# Seen:
#   torchvision 0.29.1, torch 2.14.1, Python 3.11.7
#   1000 -> 333: mean shift in pixels and mean IoU: float32 (0.0, 1.0), int64 (-0.5, 0.75)
#   1000 -> 900 -> 1000, five times: mean shift in pixels and mean IoU: float32 (0.0, 1.0), int64 (-3.51, 0.53)
#   1000 -> 333, rounded instead: (0.01, 0.86)
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 torchvision==0.29.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

import torch
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import resize
from torchvision.tv_tensors import BoundingBoxes

print(f'torchvision {version("torchvision")}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: torchvision/transforms/v2/functional/_geometry.py, resize_bounding_boxes: .mul(ratios).to(dtype)\n')
SIZE = 1000
start = torch.randint(0, 970, (1000, 2), generator=torch.Generator().manual_seed(0))
truth = torch.cat([start, start + 20], 1)  # objects of 20 x 20 pixels


def quality(boxes, size):
    """Mean shift in pixels and mean IoU."""
    exact = truth.double() * size / SIZE
    return (round(float((boxes - exact).mean()), 2), round(float(box_iou(boxes, exact).diagonal().mean()), 2))


def resized(dtype, *sizes):
    boxes = BoundingBoxes(truth.to(dtype), format='XYXY', canvas_size=(SIZE, SIZE))
    for size in sizes:
        boxes = resize(boxes, [size, size])
    return quality(boxes.as_subclass(torch.Tensor).double(), sizes[-1])


seen = {}
for name, sizes in {'1000 -> 333': [333], '1000 -> 900 -> 1000, five times': [900, 1000] * 5}.items():
    seen[name] = resized(torch.float32, *sizes), resized(torch.int64, *sizes)
    print(f'{name}: mean shift in pixels and mean IoU: float32 {seen[name][0]}, int64 {seen[name][1]}')
rounded = quality((truth.double() * 0.333).round(), 333)
print(f'1000 -> 333, rounded instead: {rounded}')
once, chain = seen.values()
same = (once[0][1] == chain[0][1] == 1 and once[1][0] < -0.4 and once[1][1] < rounded[1] and abs(rounded[0]) < 0.1
        and chain[1][0] < -2)
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
