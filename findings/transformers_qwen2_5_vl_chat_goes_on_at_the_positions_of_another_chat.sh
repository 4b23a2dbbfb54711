#!/usr/bin/env bash
# transformers: a chat with an image that goes on from its cache takes its positions from the model's last prompt, not
# from its own: `rope_deltas` belongs to the model. Two chats in turns (a server, an agent with two images) therefore
# get other answers than one after the other, without a word, unless their images have the same size. Exits with 0
# while they do, with 1 once they do not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: model.generate(..., cache=that of the first answer), with or without another prompt in between\n')
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, bos_token_id=310, eos_token_id=311, pad_token_id=312, initializer_range=0.3,
            rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=100.0))
VISION = dict(depth=2, hidden_size=32, num_heads=4, intermediate_size=64, out_hidden_size=32,
              fullatt_block_indexes=[1], initializer_range=0.3)
torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).eval()


def prompt(height, width):
    """A prompt with an image of height x width patches."""
    ids = torch.tensor([[1, 302] + [300] * (height * width // 4) + [303, 5, 6, 7]])
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 300).long(),
                pixel_values=torch.linspace(-2, 2, height * width * 1176).reshape(height * width, 1176),
                image_grid_thw=torch.tensor([[1, height, width]]))


def answer(inputs, **more):
    result = model.generate(**inputs, **more, max_new_tokens=8, do_sample=False, return_dict_in_generate=True)
    return result.sequences, result.cache


def second_answer(between=None, cached=True):
    """The answer to a second question of the chat, after a prompt of another chat if one is given."""
    first, cache = answer(prompt(8, 12))
    if between is not None:
        answer(between)
    ids = torch.cat([first, torch.tensor([[9, 10, 11]])], dim=1)
    inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 300).long())
    if not cached:
        inputs = dict(prompt(8, 12), **inputs)
    return answer(inputs, **(dict(cache=cache) if cached else {}))[0][0, ids.shape[1]:].tolist()


whole = second_answer(cached=False)
print(f'computed without a cache:                        {whole}')
alone = second_answer()
print(f'from the cache, no other chat:                   {alone}')
same = second_answer(prompt(8, 12))
print(f'from the cache, after a chat with such an image: {same}')
other = second_answer(prompt(4, 4))
print(f'from the cache, after one with a smaller image:  {other}')
raise SystemExit(0 if whole == alone == same != other else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the other chat decides the positions'
else
    echo 'changed: chats do not affect each other' >&2
    exit 1
fi
