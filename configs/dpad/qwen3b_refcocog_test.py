# RefCOCOg test (UMD): evaluates the model that qwen3b_reasonseg.py trains, otherwise as
# qwen7b_refcocog_test.py.
#   python tools/test.py configs/dpad/qwen3b_refcocog_test.py \
#       work_dirs/qwen3b_reasonseg/iter_187.pth
_base_ = './qwen7b_refcocog_test.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen2.5-VL-3B-Instruct'))
