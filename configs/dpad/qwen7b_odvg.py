# DPAD on grounded phrases with boxes, no masks: trained on 3,000 phrases of Flickr30k Entities in
# mmdet's ODVG format, evaluated on the prepared ReasonSeg copies.
#   python tools/train.py configs/dpad/qwen7b_odvg.py
#   python tools/test.py configs/dpad/qwen7b_odvg.py work_dirs/qwen7b_odvg/iter_187.pth
# Not a published recipe: DPAD's, with VisionReasoner's answer format and point threshold. Needs
# data as described in configs/_base_/datasets/odvg.py. Not run with the published weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/seg_zero_eval.py',
    '../_base_/datasets/odvg.py', '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]

model = dict(several_objects=True, policy=dict(prompt_template='several_objects'))
train_cfg = dict(rewards=dict(point_l1=dict(threshold=30)))
