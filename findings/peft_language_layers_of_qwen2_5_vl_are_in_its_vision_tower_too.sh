#!/usr/bin/env bash
# peft with Qwen2.5-VL: the usual list of a language model's layers (q_proj to down_proj) also adapts the vision tower,
# and half of it: its MLPs have the names of those of the language model, its attention (`qkv`, `proj`) has not. With
# Qwen2-VL and Qwen3-VL the same list is the language model alone. So a tower that was to stay as it is is trained, and
# the embeddings of an image change with each step, without a word. Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    peft==0.21.2 transformers==5.24.0 torch==2.14.1

cat > show.py <<'PROGRAM'
import platform

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

transformers.logging.set_verbosity_error()
LAYERS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
print(f'peft {peft.__version__}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print(f'source: get_peft_model(model, LoraConfig(target_modules={LAYERS})),\n'
      '  one step of AdamW on the embeddings of an image\n')
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, bos_token_id=310, eos_token_id=311, pad_token_id=312,
            rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=1e6))
TOKENS = dict(image_token_id=300, video_token_id=301, vision_start_token_id=302, vision_end_token_id=303)
VISION = dict(depth=2, hidden_size=32, num_heads=4)
MODELS = dict(
    qwen2_vl=lambda: Qwen2VLForConditionalGeneration(Qwen2VLConfig(
        text_config=TEXT, vision_config=dict(VISION, embed_dim=32), **TOKENS)),
    qwen2_5_vl=lambda: Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config=TEXT, vision_config=dict(VISION, intermediate_size=64, out_hidden_size=32,
                                             fullatt_block_indexes=[1]), **TOKENS)),
    qwen3_vl=lambda: Qwen3VLForConditionalGeneration(Qwen3VLConfig(
        text_config=TEXT, vision_config=dict(VISION, intermediate_size=64, out_hidden_size=32,
                                             deepstack_visual_indexes=[0]), **TOKENS)))

seen = {}
for name, make in MODELS.items():
    torch.manual_seed(0)
    model = get_peft_model(make(), LoraConfig(r=4, target_modules=LAYERS))
    adapted = {'vision': set(), 'language': set()}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            adapted['vision' if '.visual.' in key else 'language'].add(key.partition('.lora_')[0].rpartition('.')[2])
    assert adapted['language'] == set(LAYERS)
    patch = model.base_model.model.model.visual.config.patch_size
    pixels, grid = torch.randn(16, 3 * 2 * patch**2), torch.tensor([[1, 4, 4]])

    def look():
        return model.base_model.model.model.get_image_features(pixels, grid).pooler_output[0]

    before = look()
    if before.requires_grad:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        before.square().mean().backward()
        optimizer.step()
    moved = not torch.equal(look(), before)
    seen[name] = (adapted['vision'], moved)
    print(f'{name:10} adapted in the vision tower: {sorted(adapted["vision"]) or "nothing"}; a step of training '
          f'{"changes" if moved else "does not change"} the embeddings of an image')
raise SystemExit(0 if seen == dict(
    qwen2_vl=(set(), False), qwen2_5_vl=({'gate_proj', 'up_proj', 'down_proj'}, True),
    qwen3_vl=(set(), False)) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: half of the vision tower is adapted'
else
    echo 'changed: the list has another effect' >&2
    exit 1
fi
