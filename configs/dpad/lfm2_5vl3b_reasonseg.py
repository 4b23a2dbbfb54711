# DPAD with LFM2.5-VL-3B, otherwise as qwen7b_reasonseg.py: about 77 GB of accelerator memory, by
# tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/lfm2_5vl3b_reasonseg.py
# Not a published recipe, and not run with the published weights. The model image is 1024 x 1024,
# which the processor sees as four tiles and a thumbnail. The prompt asks for coordinates from 0 to
# 1, which are converted to pixels of that image.
_base_ = './qwen7b_reasonseg.py'

resize = dict(type='ModelImageResize', size=(1024, 1024))
train_pipeline = [_base_.train_pipeline[0], resize, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], resize, *_base_.test_pipeline[3:]]

model = dict(policy=dict(pretrained='checkpoints/LFM2.5-VL-3B', max_prompt_tokens=1700))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
