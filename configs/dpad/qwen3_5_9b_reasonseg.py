# DPAD with Qwen3.5-9B, otherwise as qwen3vl4b_reasonseg.py.
#   python tools/train.py configs/dpad/qwen3_5_9b_reasonseg.py
# Needs about 215 GB of accelerator memory. Not a published recipe, and not run with the published
# weights. The chat template opens <think>, so responses begin after it. Without the package
# flash-linear-attention, gated DeltaNet is slow.
_base_ = './qwen3vl4b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen3.5-9B'))
