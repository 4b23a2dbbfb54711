#!/usr/bin/env bash
# trl: GRPOTrainer keeps a vision-language model from sampling image tokens, by `suppress_tokens`. A user's own
# `generation_kwargs=dict(suppress_tokens=...)`, say against a tag, replaces that list instead of adding to it, and the
# training ends as soon as an image token is sampled, which may be hundreds of steps later. Exits with 0 while it does,
# with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    trl==1.16.0 transformers==5.24.0 datasets==5.2.0 torch==2.14.1 torchvision==0.29.1

cat > show.py <<'PROGRAM'
import contextlib
import io
import logging
import platform
import tempfile
import warnings

warnings.simplefilter('ignore')
logging.disable(logging.WARNING)
import torch
import transformers
import trl
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from trl import GRPOConfig, GRPOTrainer

print(f'trl {trl.__version__}, transformers {transformers.__version__}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: GRPOTrainer(a small Qwen2.5-VL, args=GRPOConfig(generation_kwargs=...)), two steps\n')
SPECIAL = ['<|pad|>', '<|end|>', '<|vision_start|>', '<|vision_end|>', '<|image_pad|>', '<|video_pad|>']
WORDS = ['[UNK]', *SPECIAL, 'what', 'is', 'this', *(f'word{i}' for i in range(14))]
ids = {word: number for number, word in enumerate(WORDS)}
backend = Tokenizer(models.WordLevel(ids, unk_token='[UNK]'))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
processor = Qwen2_5_VLProcessor(
    Qwen2VLImageProcessor(size=dict(shortest_edge=56**2, longest_edge=56**2)),
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token='<|pad|>', eos_token='<|end|>',
                            additional_special_tokens=SPECIAL[2:]),
    Qwen2VLVideoProcessor(), chat_template=(
        "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"))
CONFIG = Qwen2_5_VLConfig(
    text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                     num_key_value_heads=2, vocab_size=len(ids), bos_token_id=None, eos_token_id=ids['<|end|>'],
                     pad_token_id=ids['<|pad|>'],
                     rope_parameters=dict(rope_type='default', mrope_section=[1, 1, 2], rope_theta=1e4)),
    vision_config=dict(depth=1, hidden_size=32, num_heads=4, intermediate_size=64, out_hidden_size=32,
                       fullatt_block_indexes=[0]),
    image_token_id=ids['<|image_pad|>'], video_token_id=ids['<|video_pad|>'],
    vision_start_token_id=ids['<|vision_start|>'], vision_end_token_id=ids['<|vision_end|>'])
data = Dataset.from_dict(dict(prompt=[[dict(role='user', content='what is this')]] * 8,
                              image=[Image.new('RGB', (56, 56))] * 8))


def train(**options):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        GRPOTrainer(
            model=Qwen2_5_VLForConditionalGeneration(CONFIG), processing_class=processor, train_dataset=data,
            reward_funcs=lambda completions, **_: [float(number) for number in range(len(completions))],
            args=GRPOConfig(output_dir=folder, max_steps=2, use_cpu=True, bf16=False, per_device_train_batch_size=4,
                            num_generations=4, max_completion_length=12, report_to='none', disable_tqdm=True,
                            logging_strategy='no', save_strategy='no', seed=0, **options)).train()


seen = []
for what, options in {
        'no generation_kwargs': {},
        'suppress_tokens=[word3]': dict(generation_kwargs=dict(suppress_tokens=[ids['word3']])),
        'suppress_tokens=[word3, image_pad]': dict(generation_kwargs=dict(
            suppress_tokens=[ids['word3'], ids['<|image_pad|>']]))}.items():
    try:
        train(**options)
        seen.append('trains')
    except ValueError as error:
        seen.append(f'ValueError: {error}')
    print(f'{what}: {seen[-1]}')
raise SystemExit(0 if seen[::2] == ['trains'] * 2 and 'Image features and image tokens' in seen[1] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the list of the user replaces the one of the trainer'
else
    echo 'changed: image tokens stay suppressed' >&2
    exit 1
fi
