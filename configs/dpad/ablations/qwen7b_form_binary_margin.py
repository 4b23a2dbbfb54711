# Binary and continuous together, named as future work in the paper.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}},
         form='binary+margin')
]
