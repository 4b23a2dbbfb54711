#!/usr/bin/env bash
# transformers 5: where tokenizer_config.json names a class (`Qwen2Tokenizer`, `GPT2Tokenizer`), the tokenizer is
# made of that class's own normalizer and the vocabulary of tokenizer.json; the normalizer that tokenizer.json
# states is dropped without a word, so a fine-tuned VLM or CLIP text tower gets other tokens than it was trained on.
# Exits with 0 while it does, with 1 once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 tokenizers==0.23.3 huggingface-hub==2.4.0

cat > show.py <<'PROGRAM'
import json
import platform
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

print(f'transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, '
      f'Python {platform.python_version()}')
print('source: AutoTokenizer.from_pretrained of a folder with tokenizer.json and tokenizer_config.json\n')
merges = [('r', 'e'), ('re', 'd'), ('c', 'a'), ('ca', 't')]
pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map(''.join, merges), '<|endoftext|>']
stored = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
stored.normalizer = normalizers.Lowercase()
stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
text = 'Red CAT'
documented = stored.encode(text).tokens

SPLIT = ['R', 'e', 'd', 'Ġ', 'C', 'A', 'T']
same = True
for name, seen in ((None, documented), ('PreTrainedTokenizerFast', documented),
                   ('Qwen2Tokenizer', SPLIT), ('GPT2Tokenizer', SPLIT)):
    folder = Path(str(name))
    folder.mkdir()
    stored.save(str(folder / 'tokenizer.json'))
    config = dict(eos_token='<|endoftext|>', **(dict(tokenizer_class=name) if name else {}))
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    got = transformers.AutoTokenizer.from_pretrained(str(folder)).tokenize(text)
    same = same and got == seen
    print(f'tokenizer_class {name}: {text!r} -> {got}'
          + ('' if got == documented else f'   <- tokenizer.json says {documented}'))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
