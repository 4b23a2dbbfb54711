# max(0, S1 - S2), a continuous form (the paper's ablation).
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='margin')
]
