# DPAD with Qwen2.5-VL-3B, otherwise as qwen7b_reasonseg.py: about 91 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/qwen3b_reasonseg.py
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen2.5-VL-3B-Instruct'))
