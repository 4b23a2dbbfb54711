# Crops the target's box enlarged by a quarter on every side.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, margin of 25 %', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}},
         region_margin=0.25)
]
