# The entropy bonus grows while the entropy is below 0.65 nats per token, and shrinks above.
# (Without it the entropy rises from the start policy's 0.55 to 0.63 and falls again, so that a
# bonus below 0.2 would never be given.)
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, adaptive entropy', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(entropy_coef=0.0, adaptive_entropy=dict(target=0.65)))
