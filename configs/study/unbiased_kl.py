# The KL term has the gradient of the KL itself (DeepSeek-V3.2).
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, unbiased KL', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(kl_estimator='k3_unbiased'))
