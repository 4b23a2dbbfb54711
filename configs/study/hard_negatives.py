# Contrasts with the best matching other object instead of the whole image.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, hard negatives', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, contrast='others')
]
