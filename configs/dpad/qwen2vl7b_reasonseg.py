# DPAD with Qwen2-VL-7B, otherwise as qwen7b_reasonseg.py: about 194 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/qwen2vl7b_reasonseg.py
# Not run with the real weights, and no published recipe. The policy is asked for coordinates from 0
# to 1000, which are read as pixels of the 840 x 840 prompt image.
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen2-VL-7B-Instruct'))
