# The entropy bonus grows while the entropy is below 0.65 nats per token, and shrinks above. (Without
# a bonus it rises from the start policy's 0.55 to 0.63 and falls again, so 0.2 would never act.)
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, adaptive entropy', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(entropy_coef=0.0, adaptive_entropy=dict(target=0.65)))
