# The softmax over S1 and S2 at temperature 0.1 (the paper's ablation).
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='softmax')
]
