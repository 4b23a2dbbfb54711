# DPAD with a low-rank adapter on Qwen3-VL-30B-A3B, a mixture of experts, otherwise as
# qwen3vl4b_reasonseg.py.
#   pip install -e .[data,lora]
#   python tools/train.py configs/dpad/qwen3vl30b_a3b_lora_reasonseg.py
# Not run with the published weights. Takes about 71 GB of accelerator memory, by
# tools/analysis_tools/estimate_cost.py, of which the weights are 62 GB: the adapter is in
# attention, and the experts, 93 % of the weights, are frozen. Training all weights would take about
# 626 GB, or 130 GB on each of 8 GPUs (FSDP). Rank and learning rate are guesses.
_base_ = './qwen3vl4b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen3-VL-30B-A3B-Instruct', dtype='bfloat16',
                         lora=dict(r=64, lora_alpha=128)))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
