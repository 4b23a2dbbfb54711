#!/usr/bin/env bash
# transformers: SAM 2 takes several objects of an image with different numbers of points, and its processor pads the
# shorter lists with label -10, "padding points". The prompt encoder sets their embeddings to 0, but nothing masks them
# out, so the mask decoder attends to them as to any prompt: an object gets another mask and another score beside an
# object with more points than it gets alone. Give only objects with equally many points to one call: those do not
# change each other. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   transformers 5.24.0, torch 2.14.1, Python 3.11.7
#   beside an object with one point    labels [[1], [1]]                     score 0.9998 -> 0.9998, mask logits move by
#   up to 0.00 of their spread
#   beside an object with three points labels [[1, -10, -10], [1, 0, 0]]     score 0.9998 -> 0.9990, mask logits move by
#   up to 0.53 of their spread
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import numpy as np
import torch
import transformers
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Sam2Processor (point_pad_value=-10), Sam2PromptEncoder._embed_points, Sam2TwoWayTransformer\n')
features = dict(fpn_hidden_size=16, num_feature_levels=3, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]])
torch.manual_seed(0)
model = Sam2Model(Sam2Config(
    vision_config=dict(
        backbone_config=dict(
            model_type='sam2_hiera_det_model', hidden_size=8, num_attention_heads=1, image_size=[64, 64],
            blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
            window_positional_embedding_background_size=[4, 4]),
        backbone_channel_list=[64, 32, 16, 8], **features),
    prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4),
    mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=16,
                             iou_head_depth=2))).eval()
with torch.no_grad():  # so that prompts matter, as they do with trained weights
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.xavier_normal_(weight, gain=2.5)
processor = Sam2Processor(Sam2ImageProcessor(size=dict(height=64, width=64)))
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
boxes = [[10., 8, 40, 30], [30, 5, 60, 47]]
one, three = [[20., 15]], [[50., 20], [35, 10], [55, 40]]


@torch.no_grad()
def first_of(*objects):
    """Logits and score of the first object's best mask, and the labels that the processor makes."""
    inputs = processor(images=image, input_boxes=[boxes[:len(objects)]], input_points=[list(objects)],
                       input_labels=[[[1] + [0] * (len(points) - 1) for points in objects]], return_tensors='pt')
    found = model(**inputs, multimask_output=True)
    best = int(found.iou_scores[0, 0].argmax())
    return found.pred_masks[0, 0, best], float(found.iou_scores[0, 0, best]), inputs['input_labels'][0].tolist()


alone, score, _ = first_of(one)
changes = {}
for name, other in (('one point', one), ('three points', three)):
    mask, value, labels = first_of(one, other)
    changes[name] = float((mask - alone).abs().max() / alone.std())
    print(f'beside an object with {name:12} labels {str(labels):30} score {score:.4f} -> {value:.4f}, '
          f'mask logits move by up to {changes[name]:.2f} of their spread')
same = changes['one point'] < 1e-4 and changes['three points'] > 0.05
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
