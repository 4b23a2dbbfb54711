#!/usr/bin/env bash
# transformers: post_process_instance_segmentation(return_coco_annotation=True) of Mask2Former is documented as COCO
# RLE. Its numbers are pairs of start and length, row by row, not COCO's runs, column by column, which sum to the number
# of pixels; and the list begins with the background, so that zip() with segments_info gives each object the mask of
# another one. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1

cat > show.py <<'PROGRAM'
import platform
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from transformers import Mask2FormerImageProcessor

print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Mask2FormerImageProcessor.post_process_instance_segmentation, with and without\n'
      '  return_coco_annotation=True, of the same outputs\n')
H, W = 48, 64
# Two sure queries: a wide object of class 1 and a tall one of class 2.
masks, classes = torch.full((1, 2, H, W), -20.), torch.full((1, 2, 4), -20.)
masks[0, 0, 4:12, 10:40] = 20
masks[0, 1, 20:44, 30:46] = 20
classes[0, 0, 1] = classes[0, 1, 2] = 20
outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)

processor = Mask2FormerImageProcessor()
drawn = processor.post_process_instance_segmentation(outputs, target_sizes=[(H, W)])[0]
coded = processor.post_process_instance_segmentation(outputs, target_sizes=[(H, W)],
                                                     return_coco_annotation=True)[0]
segments, codes = coded['segments_info'], coded['segmentation']
wanted = [drawn['segmentation'].numpy() == segment['id'] for segment in segments]


def as_coco(counts):
    """Runs of 0 and 1 in turn, column by column, what exceeds the image left out."""
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)[:H * W]
    return np.pad(flat, (0, H * W - len(flat))).reshape(W, H).T


def as_pairs(counts):
    """Pairs of the first pixel (from 1, row by row) and the number of pixels."""
    flat = np.zeros(H * W, bool)
    for start, length in zip(counts[::2], counts[1::2]):
        flat[start - 1:start - 1 + length] = True
    return flat.reshape(H, W)


def iou(a, b):
    return round(float((a & b).sum() / (a | b).sum()), 2)


print(f'{len(segments)} segments, {len(codes)} codes; {H * W} pixels, the sums of the codes '
      f'{[sum(code) for code in codes]}')
read = []
for i, (mask, segment) in enumerate(zip(wanted, segments)):
    read.append((max(iou(as_coco(code), mask) for code in codes), iou(as_pairs(codes[i]), mask),
                 iou(as_pairs(codes[i + 1]), mask)))
    print(f'object {i} (class {segment["label_id"]}, {mask.sum()} pixels): IoU with the best code read as COCO '
          f'{read[i][0]}; code {i} read as pairs {read[i][1]}, code {i + 1} as pairs {read[i][2]}')
background = iou(as_pairs(codes[0]), drawn['segmentation'].numpy() == -1)
print(f'background: code 0 read as pairs {background}')
same = (len(segments), len(codes)) == (2, 3) and background == 1 and all(
    sum(code) != H * W for code in codes) and all(
    coco < 0.5 and own == 0 and following == 1 for coco, own, following in read)
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the codes are not COCO RLE, and not those of their segments'
else
    echo 'changed: the codes are other ones' >&2
    exit 1
fi
