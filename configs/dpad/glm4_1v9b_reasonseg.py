# DPAD with GLM-4.1V-9B-Thinking, otherwise as qwen7b_reasonseg.py: about 239 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py.
#   python tools/train.py configs/dpad/glm4_1v9b_reasonseg.py
# Not a published recipe, and not run with the published weights. The prompt asks for coordinates
# from 0 to 1000, which are converted to pixels of the model image. The model reasons at length: if
# the log reports many truncated responses, raise max_new_tokens in model.train_cfg and
# model.test_cfg.
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/GLM-4.1V-9B-Thinking'))
