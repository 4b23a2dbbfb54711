# S1 alone: the description has to fit the region, and is not contrasted with anything.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='roi')
]
