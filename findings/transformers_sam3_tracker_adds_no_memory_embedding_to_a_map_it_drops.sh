#!/usr/bin/env bash
# transformers: Sam3TrackerModel, SAM 3 with points and boxes on one image, adds `no_memory_embedding` to the last of
# the four maps of its neck and then uses the first three, so the embedding has no effect. Sam3TrackerVideoModel with
# the same weights, and Meta's predictor for images, drop the fourth map first and add it to the one that the mask
# decoder attends to. So the decoder gets other inputs for an image than it was trained with, and draws other masks,
# without a word. What to do: add it to the last of `get_image_embeddings(...)` and pass `image_embeddings`. Exits
# with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 pillow==12.3.0

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Sam3TrackerModel and Sam3TrackerVideoModel with the same weights, get_image_embeddings(pixels)\n')
VISION = dict(model_type='sam3_vision_model', fpn_hidden_size=16, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
              backbone_config=dict(model_type='sam3_vit_model', hidden_size=16, intermediate_size=32,
                                   num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14,
                                   window_size=2, global_attn_indexes=[0], pretrain_image_size=28))
PARTS = dict(vision_config=VISION,
             prompt_encoder_config=dict(hidden_size=16, image_size=56, patch_size=14, mask_input_channels=8),
             mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16))
MEMORY = dict(memory_attention_hidden_size=16, memory_attention_num_layers=1,
              memory_attention_feed_forward_hidden_size=16, memory_attention_rope_feat_sizes=[4, 4],
              memory_encoder_hidden_size=16, memory_encoder_output_channels=8, mask_downsampler_embed_dim=16,
              memory_fuser_embed_dim=16, memory_fuser_intermediate_dim=16, memory_fuser_num_layers=1)
torch.manual_seed(0)
video = Sam3TrackerVideoModel(Sam3TrackerVideoConfig(**PARTS, **MEMORY, image_size=56)).eval()
image = Sam3TrackerModel(Sam3TrackerConfig(**PARTS)).eval()
torch.nn.init.normal_(video.no_memory_embedding)
for parameter in video.mask_decoder.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
missing = image.load_state_dict(video.state_dict(), strict=False).missing_keys
print(f'levels of the neck {image.config.vision_config.scale_factors}, used {len(image.backbone_feature_sizes)}, '
      f'missing weights {missing}')
pixels = torch.randn(1, 3, 56, 56)
points = dict(input_points=torch.tensor([[[[20., 30.]]]]), input_labels=torch.ones(1, 1, 1, dtype=torch.long))


@torch.no_grad()
def masks(**source):
    return image(**source, **points).pred_masks


embedding = image.no_memory_embedding.detach().view(1, -1, 1, 1)
of_image, of_video = image.get_image_embeddings(pixels), video.get_image_embeddings(pixels)
added = {}
for name, maps, plain in (('image', of_image, of_image), ('video', of_video, of_image)):
    added[name] = torch.allclose(maps[-1], plain[-1] + embedding, atol=1e-5)
    print(f'{name} model adds no_memory_embedding to the map that the mask decoder attends to: {added[name]}')
same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(of_image[:-1], of_video[:-1], strict=True))
called = masks(pixel_values=pixels)
by_hand = masks(image_embeddings=[*of_image[:-1], of_image[-1] + embedding])
as_video = masks(image_embeddings=of_video)
print(f'the other maps are equal: {same}')
off_called, off_by_hand = ((logits - as_video).abs().max() for logits in (called, by_hand))
print(f'mask logits, Sam3TrackerModel(pixels) against the embeddings of the video model: off by up to '
      f'{off_called:.2f} (of up to {as_video.abs().max():.2f}); with the embedding added by hand: {off_by_hand:.2f}')
raise SystemExit(0 if not missing and same and added == dict(image=False, video=True)
                 and off_called > 1e-3 > off_by_hand else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the embedding has no effect on an image'
else
    echo 'changed: the embedding is added' >&2
    exit 1
fi
