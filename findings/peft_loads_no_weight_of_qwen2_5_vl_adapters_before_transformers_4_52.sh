#!/usr/bin/env bash
# peft with transformers 5: a LoRA adapter of Qwen2-VL or Qwen2.5-VL that was saved under transformers before 4.52
# (`model.layers...`, today `model.language_model.layers...`) is loaded by PeftModel.from_pretrained without one of
# its weights: a warning lists missing keys, and the model answers as its base does. transformers' own load_adapter
# converts the names and reads the same folder right. Exits with 0 while it does, with 1 once it does not.
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
import shutil
import warnings

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f'peft {peft.__version__}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: PeftModel.from_pretrained(base, folder) beside base.load_adapter(folder)\n')
torch.manual_seed(0)
Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
    text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, vocab_size=320,
                     bos_token_id=310, eos_token_id=311, pad_token_id=312,
                     rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2],
                                          rope_theta=1e6)),
    vision_config=dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=4,
                       out_hidden_size=32, fullatt_block_indexes=[1]),
    image_token_id=300, video_token_id=301, vision_start_token_id=302,
    vision_end_token_id=303)).save_pretrained('base')


def base():
    return Qwen2_5_VLForConditionalGeneration.from_pretrained('base')


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=torch.arange(10)[None]).logits


model = get_peft_model(base(), LoraConfig(r=4, target_modules=['q_proj', 'v_proj']))
for name, parameter in model.named_parameters():
    if 'lora_B' in name:
        torch.nn.init.normal_(parameter)
model.save_pretrained('today')
trained, plain = logits(model), logits(base())

# The names that transformers 4.49 gives these layers, in the same file.
shutil.copytree('today', 'before_4_52')
state = load_file('today/adapter_model.safetensors')
save_file({name.replace('model.model.language_model.', 'model.model.'): value
           for name, value in state.items()},
          'before_4_52/adapter_model.safetensors', metadata=dict(format='pt'))

seen = {}
for name in ('today', 'before_4_52'):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        by_peft = logits(PeftModel.from_pretrained(base(), name))
    told = any('missing adapter keys' in str(warning.message) for warning in caught)
    whole = base()
    whole.load_adapter(name)
    seen[name] = (by_peft.equal(trained), by_peft.equal(plain), told, logits(whole).equal(trained))
    print(f'{name:12} peft: as trained {seen[name][0]!s:5}  as the base {seen[name][1]!s:5}  '
          f'warned {told!s:5} | load_adapter: as trained {seen[name][3]}')
raise SystemExit(0 if seen == dict(today=(True, False, False, True),
                                   before_4_52=(False, True, True, True)) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: peft leaves the adapter out'
else
    echo 'changed: peft reads the adapter' >&2
    exit 1
fi
