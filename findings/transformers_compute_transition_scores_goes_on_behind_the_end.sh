#!/usr/bin/env bash
# transformers: compute_transition_scores, "a convenient method to quickly obtain the scores of the selected tokens",
# goes on behind the end of an answer that is shorter than the longest one of its batch: without beams it gives the
# scores of the padding tokens, which nobody chose. So the log-likelihood of an answer depends on the others in its
# batch, choosing the likeliest of N prefers long ones, and with top_k or top_p it is -inf. Mask the scores behind the
# first end token. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   transformers 5.24.0, torch 2.13.0, Python 3.11.7
#   alone: tokens [19, 60]
#     scores [-1.99, -1.56], sum -3.55
#   in a batch: tokens [19, 60, 0, 0, 0, 0, 0, 0]
#     scores [-1.99, -1.56, -7.26, -7.31, -7.36, -7.4, -7.39, -7.35], sum -47.62
#   in a batch, top_k=4: tokens [19, 60, 0, 0, 0, 0, 0, 0]
#     scores [0.0, 0.0, -inf, -inf, -inf, -inf, -inf, -inf], sum -inf
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.13.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: compute_transition_scores(sequences, scores, normalize_logits=True), two answers of one batch\n')
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, initializer_range=0.3, bos_token_id=None, eos_token_id=None, pad_token_id=0)).eval()
prompts = torch.tensor([[5, 6, 7], [8, 9, 10]])
ones = torch.ones_like(prompts)


def generate(rows, **options):
    return model.generate(prompts[rows], attention_mask=ones[rows], generation_config=GenerationConfig(
        max_new_tokens=8, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **options))


free = generate([0, 1], do_sample=False).sequences[:, 3:].tolist()
END = next(token for token in free[0][2:] if token not in free[1])  # where the first answer shall end
length = free[0].index(END) + 1
assert length < 8 and END not in free[1]


def scores(rows, **options):
    torch.manual_seed(0)
    output = generate(rows, eos_token_id=END, **options)
    return output.sequences[0, 3:], model.compute_transition_scores(
        output.sequences, output.scores, normalize_logits=True)[0]


cases = {'alone': scores([0], do_sample=False), 'in a batch': scores([0, 1], do_sample=False),
         'in a batch, top_k=4': scores([0, 1], do_sample=True, top_k=4, temperature=0.01)}
for name, (tokens, values) in cases.items():
    print(f'{name}: tokens {tokens.tolist()}\n  scores {[round(float(value), 2) for value in values]}, '
          f'sum {float(values.sum()):.2f}')
alone, batch, top_k = (values for _, values in cases.values())
same = (len(alone) == length and bool((cases['in a batch'][0][length:] == 0).all())
        and torch.allclose(batch[:length], alone, atol=1e-4) and bool((batch[length:] < -0.5).all())
        and bool(torch.isneginf(top_k.sum())))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
