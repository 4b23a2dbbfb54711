# S1 alone: the caption has to fit the region, and is not contrasted with anything.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ S1 of the region alone', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='roi')
]
