#!/usr/bin/env bash
# transformers: padding on the right (`attention_mask` 0) of a prompt of Qwen3.5 changes the state of its gated
# DeltaNet layers: hidden states of padding are set to 0, but each of them still lets the state decay and moves that
# of the convolution. Logits of the prompt are right; the tokens after it, read from the cache, are those of another
# prompt, without a word from the forward pass, where Qwen3 with the same mask and positions is exact. This hurts
# caches of prompts of different lengths (scoring several answers to one prompt, decoding by hand). What to do: pad on
# the left, or run prompts of one length together. Exits with 0 while it is so, with 1 once it is not.
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
from transformers import DynamicCache, Qwen3_5ForCausalLM, Qwen3_5TextConfig, Qwen3Config, Qwen3ForCausalLM

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: a prompt of 6 tokens with 4 of padding (attention_mask 0), then the next token from its cache; '
      'the same without padding\n')
BASE = dict(vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, initializer_range=0.3, pad_token_id=0)
LINEAR = dict(layer_types=['linear_attention', 'full_attention'], linear_num_key_heads=2, linear_num_value_heads=2,
              linear_key_head_dim=16, linear_value_head_dim=16)
prompt, newest = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.tensor([[11]])
pad, ones = torch.zeros(1, 4, dtype=torch.long), torch.ones_like(prompt)


@torch.no_grad()
def go_on(model, ids, mask):
    """Logits of the token after the prompt's last one, and of the token after that, read from the cache."""
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = model(input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True).logits
    last = int(mask.nonzero()[-1, 1])
    mask = torch.cat([mask, torch.ones_like(newest)], dim=1)
    then = model(input_ids=newest, attention_mask=mask, position_ids=torch.tensor([[prompt.shape[1]]]), cache=cache)
    return first[:, last], then.logits[:, -1]


seen = {}
for name, make in (('Qwen3', lambda: Qwen3ForCausalLM(Qwen3Config(**BASE))),
                   ('Qwen3.5', lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**BASE, **LINEAR)))):
    torch.manual_seed(0)
    model = make().eval()
    alone = go_on(model, prompt, ones)
    for side, parts in (('left', (pad, prompt)), ('right', (prompt, pad))):
        marks = (pad, ones) if side == 'left' else (ones, pad)
        padded = go_on(model, torch.cat(parts, dim=1), torch.cat(marks, dim=1))
        off = [float((a - b).abs().max()) for a, b in zip(alone, padded, strict=True)]
        seen[name, side] = [value < 1e-3 for value in off]
        print(f'{name:7} padding on the {side:5}: logits after the prompt off by {off[0]:.5f}, of the next token by '
              f'{off[1]:.5f} (of up to {float(alone[1].abs().max()):.2f})')
right = [True, True]
raise SystemExit(0 if list(seen.values()) == [right, right, right, [True, False]] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: padding on the right changes the state'
else
    echo 'changed: padding on the right has another effect' >&2
    exit 1
fi
