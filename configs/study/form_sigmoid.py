# The reward's form 'sigmoid' with alpha 10 instead of 'binary': the same function as in
# form_softmax.py, so the two arms show the run-to-run noise.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, sigmoid', seeds=3,
           compare_with=['caption', 'discriminative'])

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='sigmoid',
         alpha=10.0)
]
