#!/usr/bin/env bash
# segment-anything: the `bbox` of SamAutomaticMaskGenerator, "in XYWH format", ends at the middle of the last pixels:
# its width and height are one less than those of its mask, which pycocotools.toBbox gives, and in the records of
# output_mode='coco_rle' both stand side by side. A detector that is trained on such boxes as COCO's, or evaluated with
# them, loses more the smaller the objects: at 10 x 10 pixels the right box has an IoU of 0.81, and masks of one row
# have a box without an area. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   segment-anything 1.0, torch 2.14.1+cu130, pycocotools 2.0.11, Python 3.11.7
#   48 masks; their boxes begin (x, y) and end short (width, height) by: {(0, 0, 1, 1): 48}
#   the smallest: bbox [0, 0, 63, 46], toBbox [0, 0, 64, 47]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.14.1 torchvision==0.29.1 numpy==2.2.6 pycocotools==2.0.11 segment-anything==1.0

cat > show.py <<'PROGRAM'
import platform
from collections import Counter
from importlib.metadata import version

import numpy as np
import torch
from pycocotools import mask as rle
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

print(f'segment-anything {version("segment-anything")}, torch {torch.__version__}, '
      f'pycocotools {version("pycocotools")}, Python {platform.python_version()}')
print('source: segment_anything/utils/amg.py, batched_mask_to_box and box_xyxy_to_xywh\n')

# A small SAM with random weights: what it finds means nothing, but is found, encoded and described as by a large one.
torch.manual_seed(0)
WIDTH, SIDE, PATCH = 32, 64, 16
sam = Sam(
    ImageEncoderViT(img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=1, num_heads=2, out_chans=WIDTH),
    PromptEncoder(embed_dim=WIDTH, image_embedding_size=(SIDE // PATCH, SIDE // PATCH),
                  input_image_size=(SIDE, SIDE), mask_in_chans=4),
    MaskDecoder(transformer_dim=WIDTH, num_multimask_outputs=3, transformer=TwoWayTransformer(
        depth=1, embedding_dim=WIDTH, mlp_dim=WIDTH, num_heads=2))).eval()
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
generator = SamAutomaticMaskGenerator(sam, points_per_side=4, pred_iou_thresh=-1e9, stability_score_thresh=0,
                                      box_nms_thresh=2, output_mode='coco_rle')
records = generator.generate(image)
short = Counter()
for record in records:
    x, y, width, height = rle.toBbox(record['segmentation'])
    own_x, own_y, own_width, own_height = record['bbox']
    short[tuple(map(int, (own_x - x, own_y - y, width - own_width, height - own_height)))] += 1
print(f'{len(records)} masks; their boxes begin (x, y) and end short (width, height) by: {dict(short)}')
least = min(records, key=lambda record: record['area'])
print(f'the smallest: bbox {least["bbox"]}, toBbox {rle.toBbox(least["segmentation"]).astype(int).tolist()}')
same = len(records) > 10 and set(short) == {(0, 0, 1, 1)}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
