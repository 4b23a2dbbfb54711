# The entropy bonus grows while the policy's entropy is below 0.65 nats per token, and shrinks above.
# Without a bonus, the start policy's 0.55 nats rise to 0.63 and fall again: 0.2 would never act.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, adaptive entropy', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(loss=dict(entropy_coef=0.0, adaptive_entropy=dict(target=0.65)))
