# Is it only shortness? A length penalty in place of the discriminative reward.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ length penalty instead', seeds=3,
           compare_with=['caption', 'discriminative'])

train_cfg = dict(rewards=dict(chain_length=dict(type='ChainLengthReward', soft=8, hard=30)))
custom_hooks = []
