# DPAD with a low-rank adapter on Qwen2.5-VL-7B, as qwen7b_lora_reasonseg.py, sampled by vLLM on
# the same GPU (docs/rollouts.md).
#   pip install -e .[data,lora,vllm]
#   python tools/train.py configs/dpad/qwen7b_vllm_reasonseg.py
# Not run at full size. While sampling, vLLM takes the fraction
# `gpu_memory_utilization` of the GPU's memory in addition to the policy; between rollouts it
# sleeps.
_base_ = './qwen7b_lora_reasonseg.py'

model = dict(
    rollout_engine=dict(type='VLLMRollout', gpu_memory_utilization=0.4),
    # vLLM's log-probabilities differ from the model's, hence truncated importance sampling.
    loss=dict(importance_cap=2.0))
