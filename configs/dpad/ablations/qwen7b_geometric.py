# Seg-Zero: format and geometric rewards only; the prompt asks for no caption.
_base_ = '../qwen7b_reasonseg.py'

model = dict(policy=dict(prompt_template='without_caption'))
train_cfg = dict(rewards=dict(thinking_format=dict(caption=False)))
custom_hooks = []
