# DPAD with Qwen3-VL-8B, otherwise as qwen3vl4b_reasonseg.py: about 203 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/qwen3vl8b_reasonseg.py
# Not run with the published weights.
_base_ = './qwen3vl4b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen3-VL-8B-Instruct'))
