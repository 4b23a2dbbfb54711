# DPAD with Qwen2.5-VL-7B, which may look closer at a part of the image before it answers
# (docs/rollouts.md, Conversations). Not run with the published weights.
#   python tools/train.py configs/dpad/qwen7b_zoom.py
#   python tools/test.py configs/dpad/qwen7b_zoom.py work_dirs/qwen7b_zoom/iter_187.pth
# The published training images have 840 x 840 pixels, as many as the policy sees, so crops of them
# are enlarged but show no more; ReasonSeg's and your own may. For small targets, see "Small
# targets" there.
_base_ = ['./qwen7b_reasonseg.py']

model = dict(
    policy=dict(prompt_template='zoom', max_prompt_tokens=1400),  # the offer takes 40
    # A crop has up to 400 tokens. Two turns of 1,300 tokens and the reply between them fit.
    conversation=dict(max_turns=2, max_tokens=3200, limits=dict(min_side=112)))
train_cfg = dict(rewards=dict(
    turn_cost=dict(type='TurnCostReward', weight=0.05),
    crop=dict(type='CropContainsTargetReward', weight=0.5)))
