# Is shorter reasoning all that matters? A length penalty instead of the discriminative reward.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ length penalty instead', seeds=3,
           compare_with=['caption', 'discriminative'])

train_cfg = dict(rewards=dict(reasoning_length=dict(type='ReasoningLengthReward', soft=8, hard=30)))
custom_hooks = []
