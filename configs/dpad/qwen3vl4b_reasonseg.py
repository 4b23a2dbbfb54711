# DPAD with Qwen3-VL-4B, otherwise as qwen7b_reasonseg.py: about 106 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/qwen3vl4b_reasonseg.py
# Not a published recipe, and not run with the published weights. The model image is 832 x 832,
# since sides must be multiples of 32. The prompt asks for coordinates from 0 to 1000, which are
# converted to pixels of that image.
_base_ = './qwen7b_reasonseg.py'

resize = dict(type='ModelImageResize', size=(832, 832))
train_pipeline = [_base_.train_pipeline[0], resize, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], resize, *_base_.test_pipeline[3:]]

model = dict(policy=dict(pretrained='checkpoints/Qwen3-VL-4B-Instruct'))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
