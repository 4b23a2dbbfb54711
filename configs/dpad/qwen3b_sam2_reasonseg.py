# The published protocol with Qwen2.5-VL-3B, otherwise as qwen7b_sam2_reasonseg.py.
#   python tools/train.py configs/dpad/qwen3b_sam2_reasonseg.py
_base_ = './qwen7b_sam2_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen2.5-VL-3B-Instruct'))
