#!/usr/bin/env bash
# transformers: Sam3Processor pads a text to the 32 tokens that SAM 3 reads but cuts none, where Meta's tokenizer of
# SAM 3 does. So a text with more than 30 tokens, a caption or an answer of a language model in place of a noun
# phrase, ends with an error about `max_position_embeddings` in the model, and in a batch with shorter ones in the
# processor, which advises `truncation=True` and takes it without effect. What to do: call `processor.tokenizer` with
# `padding='max_length', max_length=32, truncation=True`. Exits with 0 while it is so, with 1 once it is not.
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
import string

import torch
import transformers
from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: Sam3Processor(text=...), then Sam3Model.get_text_features; each word is one token\n')
words = ['dog', 'the', 'left', 'of']
letters = [*string.ascii_lowercase, *(f'{letter}</w>' for letter in string.ascii_lowercase)]
merges = [(part, word[i + 1:i + 2] + '</w>' * (i + 2 == len(word)))
          for word in words for i, part in ((i, word[:i + 1]) for i in range(len(word) - 1))]
pieces = dict.fromkeys(['<|startoftext|>', '<|endoftext|>', *letters, *map(''.join, merges)])
tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges)
processor = Sam3Processor(Sam3ImageProcessor(), tokenizer)
small = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2)
model = Sam3Model(Sam3Config(
    text_config=dict(**small, num_hidden_layers=1, vocab_size=len(pieces), bos_token_id=0, eos_token_id=1,
                     max_position_embeddings=32),
    vision_config=dict(model_type='sam3_vision_model', fpn_hidden_size=16,
                       backbone_config=dict(**small, model_type='sam3_vit_model', num_hidden_layers=1))))
short, long = 'the dog', 'the dog left of ' * 9
cut = dict(padding='max_length', max_length=32, truncation=True)
seen = {}
for name, encode in (
        ('a phrase of 2 words', lambda: processor(text=short, return_tensors='pt')),
        ('a caption of 36 words', lambda: processor(text=long, return_tensors='pt')),
        ('the caption, truncation=True', lambda: processor(text=long, truncation=True, return_tensors='pt')),
        ('phrase and caption in a batch', lambda: processor(text=[short, long], return_tensors='pt')),
        ('both, by the tokenizer, cut', lambda: tokenizer([short, long], **cut, return_tensors='pt'))):
    shape = None
    try:
        batch = encode()
        shape = tuple(batch['input_ids'].shape)
        model.get_text_features(**batch)
        seen[name] = shape
        print(f'{name}: tokens {shape}, accepted')
    except ValueError as error:
        seen[name] = (shape, 'ValueError')
        print(f'{name}: tokens {shape}, {type(error).__name__}: {str(error).splitlines()[0]}')
raise SystemExit(0 if list(seen.values()) == [
    (1, 32), ((1, 38), 'ValueError'), ((1, 38), 'ValueError'), (None, 'ValueError'), (2, 32)] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: a long text is not cut'
else
    echo 'changed: a long text is handled otherwise' >&2
    exit 1
fi
