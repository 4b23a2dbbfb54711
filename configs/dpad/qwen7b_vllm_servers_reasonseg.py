# DPAD with a low-rank adapter on Qwen2.5-VL-7B, as qwen7b_lora_reasonseg.py, sampled by vLLM
# servers on other GPUs or machines, each in an environment of its own (docs/rollouts.md).
#   mmdpad serve-rollouts configs/dpad/qwen7b_vllm_servers_reasonseg.py --python VLLM_PYTHON
#   python tools/train.py configs/dpad/qwen7b_vllm_servers_reasonseg.py
# Not run at full size. `urls` lists the address of each server.
_base_ = './qwen7b_lora_reasonseg.py'

model = dict(
    rollout_engine=dict(type='VLLMServerRollout', urls=['http://127.0.0.1:8000']),
    # vLLM's log-probabilities differ from the model's, hence truncated importance sampling.
    loss=dict(importance_cap=2.0))
