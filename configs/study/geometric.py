# Format and geometric rewards only; the prompt asks for no caption (Seg-Zero).
_base_ = './discriminative.py'
arm = dict(group='main', title='geometric rewards only', seeds=5,
           compare_with=['start'])

model = dict(policy=dict(prompt_template='which "{question}"'))
train_cfg = dict(rewards=dict(thinking_format=dict(caption=False)))
custom_hooks = []
