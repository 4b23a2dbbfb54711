#!/usr/bin/env bash
# transformers: a forward pass of Qwen2.5-VL with a cache and an attention mask over all tokens, which is how every
# decoder is run by hand, ends with an error about sizes of tensors: positions are computed for the whole mask. It works
# without a mask, which is no way out for prompts of different lengths. Exits with 0 while it fails, with 1 once it works.
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
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: model(input_ids=the newest, attention_mask=of all tokens, cache=...)\n')
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=320, bos_token_id=310, eos_token_id=311, pad_token_id=312, initializer_range=0.3,
            rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=100.0))
VISION = dict(depth=2, hidden_size=32, num_heads=4, intermediate_size=64, out_hidden_size=32,
              fullatt_block_indexes=[1], initializer_range=0.3)
torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).eval()
ids = torch.tensor([[1, 302] + [300] * 24 + [303, 5, 6, 7]])
images = dict(mm_token_type_ids=(ids == 300).long(), image_grid_thw=torch.tensor([[1, 8, 12]]),
              pixel_values=torch.linspace(-2, 2, 96 * 1176).reshape(96, 1176))
text = Qwen2ForCausalLM(Qwen2Config(**{key: value for key, value in TEXT.items() if key != 'rope_parameters'})).eval()
newest = torch.tensor([[8, 9]])
everything = torch.ones(1, ids.shape[1] + 2, dtype=torch.long)

seen = []
for name, this, more in (('Qwen2', text, {}), ('Qwen2.5-VL', model, images)):
    with torch.no_grad():
        cache = this(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **more).cache
        for mask in (None, everything):
            try:
                logits = this(input_ids=newest, attention_mask=mask, cache=copy.deepcopy(cache)).logits
                seen.append(tuple(logits.shape))
            except RuntimeError as error:
                seen.append('RuntimeError')
                print(f'  {error}')
            print(f'{name}, {"without a mask" if mask is None else "with a mask of all tokens"}: {seen[-1]}')
raise SystemExit(0 if seen == [(1, 2, 320)] * 3 + ['RuntimeError'] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the mask makes the pass fail'
else
    echo 'changed: the mask is possible' >&2
    exit 1
fi
