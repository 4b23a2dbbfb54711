#!/usr/bin/env bash
# transformers: on a CPU, mixture-of-experts models in float64 end at the first forward pass with an error about
# `mat_a`: the default implementation of experts, `grouped_mm`, calls a function of torch that has no float64,
# although transformers has a loop to fall back on for other cases. Dense models run. So the usual ways to check a
# change of a model exactly (gradcheck, a reference in float64) fail for such models. What to do:
# `experts_implementation='eager'` in from_pretrained, or `model.set_experts_implementation('eager')`. Exits with 0
# while it is so, with 1 once it is not.
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
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

transformers.logging.set_verbosity_error()
print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: model.to(dtype)(input_ids), on a CPU, with the default experts_implementation and with "eager"\n')
BASE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16)
EXPERTS = dict(moe_intermediate_size=16, num_experts_per_tok=2)
MODELS = dict(
    qwen3=lambda: Qwen3ForCausalLM(Qwen3Config(**BASE)),
    qwen3_moe=lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**BASE, **EXPERTS, num_experts=4)),
    glm4_moe=lambda: Glm4MoeForCausalLM(Glm4MoeConfig(
        **BASE, **EXPERTS, n_routed_experts=4, first_k_dense_replace=0, pad_token_id=0)),
    mixtral=lambda: MixtralForCausalLM(MixtralConfig(**BASE, num_local_experts=4)))
ids = torch.arange(12)[None]
seen, errors = {}, set()
for name, make in MODELS.items():
    torch.manual_seed(0)
    model = make().eval()
    for experts in ('default', 'eager'):
        if experts == 'eager' and name != 'qwen3':
            model.set_experts_implementation('eager')
        for dtype in (torch.float32, torch.float64):
            try:
                with torch.no_grad():
                    seen[name, experts, dtype] = model.to(dtype)(input_ids=ids).logits.dtype == dtype
            except RuntimeError as error:
                seen[name, experts, dtype] = False
                errors.add(str(error).splitlines()[0])
    print(f'{name:9} ' + ', '.join(f'{experts} {str(dtype).rpartition(".")[2]}: {"runs" if runs else "RuntimeError"}'
                                   for (model_name, experts, dtype), runs in seen.items() if model_name == name))
print(*errors, sep='\n')
raise SystemExit(0 if all(runs == (name == 'qwen3' or experts == 'eager' or dtype == torch.float32)
                          for (name, experts, dtype), runs in seen.items())
                 and all('got Double' in error for error in errors) else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: experts fail in float64'
else
    echo 'changed: experts behave otherwise in float64' >&2
    exit 1
fi
