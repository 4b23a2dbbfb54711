# Only the fifth of the tokens with the highest entropy counts in the surrogate.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, high-entropy tokens only', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(top_entropy_quantile=0.2))
