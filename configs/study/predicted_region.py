# Crops the box of the response instead of the target's.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, predicted box', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}},
         region='predicted')
]
