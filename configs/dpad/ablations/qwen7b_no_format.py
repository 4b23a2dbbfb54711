# No reward for the format of a response; both terms are still logged.
_base_ = '../qwen7b_reasonseg.py'

train_cfg = dict(rewards=dict(
    thinking_format=dict(weight=0.0), segmentation_format=dict(weight=0.0)))
