#!/usr/bin/env bash
# transformers: a chat of Qwen2.5-VL that goes on from its cache cannot get a second image. With the pixels and the grid
# of the new image alone, `generate` ends with a bare StopIteration; with both images, or the new pixels and both grids,
# with another error. Only if the tokens of the first image are declared text does it run, and then with other positions
# than a run without a cache, so the answer is another one. A forward pass with the right positions works. Exits with 0
# while this is so, with 1 once it is not.
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
import copy
import platform

import torch
import transformers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: model.generate(..., cache=that of the first answer, a second image)\n')
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, bos_token_id=310, eos_token_id=311, pad_token_id=312, initializer_range=0.3,
            rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=100.0))
VISION = dict(depth=2, hidden_size=32, num_heads=4, intermediate_size=64, out_hidden_size=32,
              fullatt_block_indexes=[1], initializer_range=0.3)
torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).eval()


def image(height, width):
    """Pixels and grid of an image of height x width patches."""
    return (torch.linspace(-2, 2, height * width * 1176).reshape(height * width, 1176),
            torch.tensor([[1, height, width]]))


def question(height, width):
    return torch.tensor([[1, 302] + [300] * (height * width // 4) + [303, 5, 6, 7]])


def answer(ids, types, pixels, grid, **more):
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types,
                          pixel_values=pixels, image_grid_thw=grid, max_new_tokens=6, do_sample=False,
                          return_dict_in_generate=True, **more)


(old, old_grid), (new, new_grid) = image(8, 12), image(4, 8)
ids = question(8, 12)
first = answer(ids, (ids == 300).long(), old, old_grid)
ids = torch.cat([first.sequences, question(4, 8)], dim=1)
types, start = (ids == 300).long(), first.sequences.shape[1]
only_new = types.clone()
only_new[:, :start] = 0
both, grids = torch.cat([old, new]), torch.cat([old_grid, new_grid])
whole = answer(ids, types, both, grids).sequences[0, ids.shape[1]:].tolist()
print(f'computed without a cache: {whole}')

seen = {}
for name, inputs in {
        'new image': (types, new, new_grid), 'both images': (types, both, grids),
        'new pixels, both grids': (types, new, grids), 'new image, its tokens': (only_new, new, new_grid)}.items():
    answer(question(8, 12), (question(8, 12) == 300).long(), old, old_grid)  # the state that the first answer left
    try:
        seen[name] = answer(ids, *inputs, cache=copy.deepcopy(first.cache)).sequences[0, ids.shape[1]:].tolist()
    except (StopIteration, ValueError, IndexError) as error:
        seen[name] = f'{type(error).__name__}: {error}'
    print(f'from the cache, {name}: {seen[name]}')

with torch.no_grad():
    positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grids,
                                              attention_mask=torch.ones_like(ids))
    cached = first.cache.get_seq_length()
    logits = model(input_ids=ids[:, cached:], position_ids=positions[:, :, cached:], pixel_values=new,
                   image_grid_thw=new_grid, cache=first.cache).logits
print(f'from the cache, a forward pass with the right positions begins with {logits[0, -1].argmax().item()}')
failed = [str(seen.pop(name)).partition(':')[0] for name in ('new image', 'both images', 'new pixels, both grids')]
same = failed == ['StopIteration', 'ValueError', 'IndexError'] and seen['new image, its tokens'] != whole
raise SystemExit(0 if same and logits[0, -1].argmax().item() == whole[0] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: no call of `generate` works'
else
    echo 'changed: a second image is possible' >&2
    exit 1
fi
