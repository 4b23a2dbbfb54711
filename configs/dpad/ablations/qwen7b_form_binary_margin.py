# Binary plus continuous, which the paper names as future work.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}},
         form='binary+margin')
]
