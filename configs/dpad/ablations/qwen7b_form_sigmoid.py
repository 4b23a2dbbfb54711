# sigmoid(100 (S1 - S2)), a form that the paper names for future work. With alpha=10.0 it would be
# qwen7b_form_softmax.py again.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='sigmoid')
]
