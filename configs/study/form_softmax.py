# The reward's form 'softmax' instead of 'binary'.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, softmax', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='softmax')
]
