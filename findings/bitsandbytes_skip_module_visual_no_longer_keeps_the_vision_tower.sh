#!/usr/bin/env bash
# transformers 5 with bitsandbytes: `llm_int8_skip_modules=['lm_head', 'visual']`, which kept the vision tower of
# Qwen2.5-VL whole under transformers 4 (any part of a path counted), quantizes it to 4 bits without a word: the
# tower is `model.visual` by now, and a name is compared from the start. Exits with 0 while it does, with 1 once it
# does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    bitsandbytes==0.50.2 transformers==5.24.0 accelerate==1.15.0 torch==2.14.1

cat > show.py <<'PROGRAM'
import platform

import bitsandbytes
import torch
import transformers
from transformers import (
    BitsAndBytesConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f'transformers {transformers.__version__}, bitsandbytes {bitsandbytes.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True, '
      'llm_int8_skip_modules=...))\n')
torch.manual_seed(0)
Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, vocab_size=320,
                     bos_token_id=310, eos_token_id=311, pad_token_id=312,
                     rope_parameters=dict(rope_type='default', mrope_section=[2, 3, 3],
                                          rope_theta=1e6)),
    vision_config=dict(depth=2, hidden_size=64, intermediate_size=128, num_heads=4,
                       out_hidden_size=64, fullatt_block_indexes=[1]),
    image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).save_pretrained('model')

seen = {}
for skipped in (['lm_head', 'visual'], ['lm_head', 'model.visual']):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        'model', quantization_config=BitsAndBytesConfig(load_in_4bit=True,
                                                        llm_int8_skip_modules=skipped))
    quantized = [name for name, module in model.named_modules()
                 if isinstance(module, bitsandbytes.nn.Linear4bit)]
    vision = [name for name in quantized if name.startswith('model.visual.')]
    seen[skipped[1]] = (len(vision), len(quantized) - len(vision))
    print(f'skipped {skipped}: {len(vision)} layers of the vision tower in 4 bits '
          f'({", ".join(vision[:2]) or "none"}), {len(quantized) - len(vision)} others')
raise SystemExit(0 if seen['visual'][0] > 0 and seen['model.visual'][0] == 0
                 and seen['visual'][1] == seen['model.visual'][1] > 0 else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the vision tower is quantized'
else
    echo 'changed: `visual` names the vision tower' >&2
    exit 1
fi
