#!/usr/bin/env bash
# transformers: with `ignore_index=255` the processor of Mask2Former pads the binary masks of a batch of different sizes
# with 255 (without it, with 0). These `mask_labels` are the targets of a cross entropy and of a dice loss, which ignore
# no pixel, so the loss of the same model on the same batch becomes negative, without a word. Exits with 0 while it
# does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1

cat > show.py <<'PROGRAM'
import platform

import numpy as np
import torch
import transformers
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
)

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Mask2FormerImageProcessor(ignore_index=...)(images, segmentation_maps), then the loss of a small '
      'Mask2Former\n')
torch.manual_seed(0)
model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(
    backbone_config=SwinConfig(image_size=64, embed_dim=16, depths=[1, 1, 1, 1],
                               num_heads=[1, 1, 2, 2], window_size=4,
                               out_features=['stage1', 'stage2', 'stage3', 'stage4']),
    feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
    encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32,
    num_queries=5, num_labels=2)).eval()

# Two images, one on its side; in the maps, which name no pixel 255, the right half is class 1.
sizes = [(64, 96), (96, 64)]
images = [np.full((3, *size), 100, np.uint8) for size in sizes]
maps = [np.zeros(size, np.uint8) for size in sizes]
for item in maps:
    item[:, item.shape[1] // 2:] = 1


@torch.no_grad()
def loss(batch, mask_labels):
    torch.manual_seed(0)
    return round(float(model(pixel_values=batch['pixel_values'], mask_labels=mask_labels,
                             class_labels=batch['class_labels']).loss), 1)


seen = {}
for ignore_index in (None, 255):
    processor = Mask2FormerImageProcessor(do_resize=False, ignore_index=ignore_index)
    batch = processor(images=images, segmentation_maps=maps, return_tensors='pt')
    values = sorted({value for masks in batch['mask_labels'] for value in masks.unique().tolist()})
    seen[ignore_index] = (values, loss(batch, batch['mask_labels']))
    print(f'ignore_index {ignore_index!s:4}: values of mask_labels {values}, loss {seen[ignore_index][1]}')
zeros = loss(batch, [torch.where(masks == 255, 0., masks) for masks in batch['mask_labels']])
print(f'ignore_index 255, the padding set to 0 by hand: loss {zeros}')
same = (seen[None][0] == [0.0, 1.0] and seen[255][0] == [0.0, 1.0, 255.0] and zeros == seen[None][1]
        and seen[255][1] < 0 < zeros)
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: binary masks have the value 255'
else
    echo 'changed: masks are padded otherwise' >&2
    exit 1
fi
