# sigmoid(10 * (S1 - S2)), which is qwen7b_form_softmax.py by another name: a run of both tells how
# far two runs of one reward are apart. Another `alpha` makes it another reward.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator={{_base_.discriminator}}, form='sigmoid')
]
