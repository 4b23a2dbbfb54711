# DPAD with InternVL3.5-8B in transformers' own format, otherwise as qwen7b_reasonseg.py:
# about 197 GB of accelerator memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/internvl3_5_8b_reasonseg.py
# Not a published recipe, and not run with the published weights. The model image of 896 x 896
# becomes 2 x 2 tiles of 448 x 448 and a thumbnail, 256 tokens each, so prompts have up to 1700
# tokens. Another size changes the number of tiles (docs/policies.md). The prompt asks for
# coordinates from 0 to 1000, which are converted to pixels of that image.
_base_ = './qwen7b_reasonseg.py'

resize = dict(type='ModelImageResize', size=(896, 896))
train_pipeline = [_base_.train_pipeline[0], resize, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], resize, *_base_.test_pipeline[3:]]

model = dict(policy=dict(pretrained='checkpoints/InternVL3_5-8B-HF', max_prompt_tokens=1700))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
