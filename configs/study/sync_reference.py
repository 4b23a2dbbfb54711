# The reference of the KL term becomes the current policy every 50 of the 300 iterations.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, synchronized reference', seeds=5,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='binary'),
    dict(type='SyncReferenceHook', interval=50, mixup_alpha=1.0)
]
