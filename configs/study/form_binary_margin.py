# The reward's form 'binary+margin' instead of 'binary'.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, binary+margin', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}},
         form='binary+margin')
]
