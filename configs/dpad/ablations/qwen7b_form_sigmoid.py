# sigmoid(100 (S1 - S2)), which the paper names as future work. With alpha=10.0 it would equal
# qwen7b_form_softmax.py.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='sigmoid')
]
