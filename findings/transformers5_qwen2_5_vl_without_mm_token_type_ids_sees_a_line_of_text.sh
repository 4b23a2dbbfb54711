#!/usr/bin/env bash
# transformers 5: Qwen2.5-VL needs `mm_token_type_ids` besides `image_grid_thw` to give an image positions in two
# dimensions. Calls and collators of transformers 4, which has no such argument, still run, but for the rotary embedding
# the image is then a line of text: other logits and answers, without a word. Exits with 0 while this is so, with 1 once
# it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
pip() { env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@"; }
pip transformers==5.24.0 torch==2.14.1
pip --target four transformers==4.57.6

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

transformers.logging.set_verbosity_warning()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
NEW = int(transformers.__version__.partition('.')[0]) >= 5
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, bos_token_id=310, eos_token_id=311, pad_token_id=312, initializer_range=0.3)
ROPE = dict(mrope_section=[1, 1, 2], rope_type='default')
TEXT.update(dict(rope_parameters=dict(ROPE, rope_theta=100.0)) if NEW else dict(rope_scaling=ROPE, rope_theta=100.0))
VISION = dict(depth=2, hidden_size=32, num_heads=4, intermediate_size=64, out_hidden_size=32,
              fullatt_block_indexes=[1], initializer_range=0.3)
torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).eval()

# Two tokens, an image of 4 x 6 tokens, four tokens: time, height and width of each.
ids = torch.tensor([[1, 302] + [300] * 24 + [303, 5, 6, 7]])
inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=torch.tensor([[1, 8, 12]]),
              pixel_values=torch.linspace(-2, 2, 96 * 1176).reshape(96, 1176))
image = [(2, 2 + row, 2 + column) for row in range(4) for column in range(6)]
plane = torch.tensor([(0, 0, 0), (1, 1, 1), *image, *((k, k, k) for k in range(8, 12))]).T[:, None]
line = torch.arange(30).expand(3, 1, 30)


@torch.no_grad()
def logits(**more):
    return model(**inputs, **more).logits


def is_close(a, b):
    return torch.allclose(a, b, atol=1e-4)


in_plane, in_line, call = logits(position_ids=plane), logits(position_ids=line), logits()
print(f'model(input_ids, attention_mask, pixel_values, image_grid_thw): as with positions in a plane: '
      f'{is_close(call, in_plane)}, in a line: {is_close(call, in_line)}')
seen = [is_close(call, in_plane), is_close(call, in_line)]
if NEW:
    typed = logits(mm_token_type_ids=(ids == 300).long())
    print(f'with mm_token_type_ids: in a plane: {is_close(typed, in_plane)}, in a line: {is_close(typed, in_line)}')
    seen += [is_close(typed, in_plane), is_close(typed, in_line)]
print(f'largest difference between logits: {(in_plane - in_line).abs().max():.1f}\n')
raise SystemExit(0 if seen == ([False, True, True, False] if NEW else [True, False]) else 1)
PROGRAM
if PYTHONPATH=four env/bin/python show.py && env/bin/python show.py; then
    echo 'seen again: the image is a line of text'
else
    echo 'changed: the image has the same positions as before' >&2
    exit 1
fi
