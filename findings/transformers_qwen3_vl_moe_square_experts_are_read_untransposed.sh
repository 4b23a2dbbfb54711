#!/usr/bin/env bash
# transformers 5: published files of Qwen3-VL-MoE hold the weights of experts as (experts, in, out), transformers 5
# holds and saves them as (experts, out, in) under the same names, and the shape of a weight decides whether it is
# transposed when it is read. Where an expert is square (its width is the hidden size, or half of it for gate_up_proj)
# the two shapes are equal, and a file in the published layout is read wrong: no missing, unexpected or mismatched
# key, other logits. No model that Qwen published is square; models that were cut or distilled from them under
# transformers 4 and small ones for tests may be. It is known as issue 47031 of transformers, which was closed. What
# to do: transpose such a file by hand, or choose another width. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 safetensors==0.8.0

cat > show.py <<'PROGRAM'
import platform
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: from_pretrained of a model of hidden size 32, with its experts as transformers 5 saves '
      'them, (experts, out, in), and as in published files, (experts, in, out)\n')
ROPE = dict(rope_type='default', rope_theta=1e4, mrope_section=[2, 3, 3], mrope_interleaved=True)
VISION = dict(depth=1, num_heads=2, hidden_size=32, intermediate_size=32, out_hidden_size=32,
              deepstack_visual_indexes=[0])
ids = torch.arange(40).reshape(2, 20)
seen = {}
for width in (24, 16, 32):  # of an expert: half the hidden size makes gate_up_proj square, the whole makes down_proj
    torch.manual_seed(0)
    model = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(
        vision_config=VISION, tie_word_embeddings=False, text_config=dict(
            vocab_size=64, hidden_size=32, intermediate_size=64, moe_intermediate_size=width, num_experts=4,
            num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
            initializer_range=0.3, rope_parameters=ROPE))).eval()
    folder = Path(f'width_{width}')
    model.save_pretrained(folder)
    saved = load_file(folder / 'model.safetensors')
    published = {name: weight.transpose(1, 2).contiguous() if '.experts.' in name else weight
                 for name, weight in saved.items()}
    for layout, weights in (('saved by transformers 5', saved), ('published', published)):
        save_file(weights, folder / 'model.safetensors', metadata=dict(format='pt'))
        read, report = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
        with torch.no_grad():
            off = float((read.eval()(input_ids=ids).logits - model(input_ids=ids).logits).abs().max())
        problems = {kind: names for kind, names in report.items() if names}
        seen[width, layout] = (off < 1e-4, problems)
        shapes = ', '.join(f'{name.rpartition(".")[2]} {tuple(weight.shape[1:])}' for name, weight in weights.items()
                           if 'layers.0.mlp.experts.' in name)
        print(f'experts of width {width}, {layout}: {shapes}: logits off by {off:.2f}, problems reported: '
              f'{problems or "none"}')
right, wrong = (True, {}), (False, {})
raise SystemExit(0 if list(seen.values()) == [right, right, right, wrong, right, wrong] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: square experts are read untransposed'
else
    echo 'changed: square experts are read otherwise' >&2
    exit 1
fi
