# The entropy bonus grows while the policy's entropy is below 0.2 nats per token, and shrinks above.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, adaptive entropy', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(entropy_coef=0.0, adaptive_entropy=dict(target=0.2)))
