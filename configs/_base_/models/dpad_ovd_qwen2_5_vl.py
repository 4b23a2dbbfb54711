# Open-vocabulary detection by Qwen2.5-VL: boxes, labels and a description of each object, no masks.
# The discriminative term compares each description with its own object, all others and the image.
# The score of a box, by which AP ranks, is the likelihood of its label: one forward pass an answer.
_base_ = './dpad_qwen2_5_vl.py'

model = dict(
    decoder=None,
    box_scorer=dict(type='LikelihoodScorer'),
    tasks=dict(detection=dict(type='DetectionTask', max_objects=100)),
    # An object takes about 60 tokens. An answer that is cut off counts as one without objects.
    test_cfg=dict(max_new_tokens=2048))
custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator=_base_.discriminator, form='binary',
         contrast='others', per_instance=True)
]
