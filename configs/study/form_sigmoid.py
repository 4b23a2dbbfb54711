# The reward's form 'sigmoid' at 10 in place of 'binary': the function of form_softmax.py again, so
# that the two arms show how far apart runs of one reward are.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, sigmoid', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='sigmoid',
         alpha=10.0)
]
