# DPAD with Qwen2-VL-7B, otherwise as qwen7b_reasonseg.py: about 191 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/qwen2vl7b_reasonseg.py
# Not a published recipe, and not run with the published weights. The prompt asks for coordinates
# from 0 to 1000, which are converted to pixels of the 840 x 840 model image.
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen2-VL-7B-Instruct'))
