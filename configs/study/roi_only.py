# S1 alone: the caption must match the region, without any contrast.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ S1 of the region alone', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='roi')
]
