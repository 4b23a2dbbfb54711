#!/usr/bin/env bash
# transformers: with `attn_implementation='eager'` a prompt with padding on the left has NaN logits in float64, and in
# float16 where a score of attention is -16 or less, as large biases of queries and keys can make it. The mask adds
# the least number of the type: float64's is -inf after the softmax's conversion to float32, float16's is -inf after
# the sum. A token of padding sees nothing but such scores, its row of the softmax is NaN, and the next layer spreads
# that to the prompt. Alone, or with sdpa, all is finite. What to do: sdpa, or float32 or bfloat16. Exits with 0 while
# it is so, with 1 once it is not.
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
from transformers import Qwen2Config, Qwen2ForCausalLM

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: two prompts, one of them with padding on the left (attention_mask 0); logits of its own tokens\n')
CONFIG = Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1)
ids = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 5, 6]])
mask = (ids > 0).long()


@torch.no_grad()
def logits(dtype, attention, bias, batch):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(CONFIG).eval()
    for layer in model.model.layers:  # biases of queries and keys that make scores of about -60
        layer.self_attn.q_proj.bias.data.view(2, 16)[:, 4:8] = bias
        layer.self_attn.k_proj.bias.data.view(1, 16)[:, 4:8] = -bias
    model.to(dtype).set_attn_implementation(attention)
    if batch:
        return model(input_ids=ids, attention_mask=mask).logits[0, 3:]
    return model(input_ids=ids[:1, 3:]).logits[0]


seen = {}
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    for bias in (0., 8.):
        case = (str(dtype).rpartition('.')[2], bias)
        seen[case] = {f'{attention} {"padded" if batch else "alone"}': bool(
            logits(dtype, attention, bias, batch).isfinite().all())
            for attention in ('sdpa', 'eager') for batch in (False, True)}
        print(f'{case[0]:8} biases of {bias:g}: ' + ', '.join(
            f'{name}: {"finite" if finite else "NaN"}' for name, finite in seen[case].items()))
nan = {('float64', 0.), ('float64', 8.), ('float16', 8.)}
raise SystemExit(0 if all(finite == (name != 'eager padded' or case not in nan)
                          for case, found in seen.items() for name, finite in found.items()) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: padded prompts have NaN logits'
else
    echo 'changed: padded prompts have other logits' >&2
    exit 1
fi
