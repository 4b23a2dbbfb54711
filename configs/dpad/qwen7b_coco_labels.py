# DPAD on COCO's categories, with lists of objects as answers: trained on 3,000 questions from
# train2017, evaluated on val2017.
#   python tools/train.py configs/dpad/qwen7b_coco_labels.py
#   python tools/test.py configs/dpad/qwen7b_coco_labels.py \
#       work_dirs/qwen7b_coco_labels/iter_187.pth
# Not a published recipe: DPAD's, with VisionReasoner's answer format and point threshold. Needs
# data/coco/ as described in configs/_base_/datasets/coco_labels.py. Not run with the published
# weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/coco_labels.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]

model = dict(several_objects=True, policy=dict(prompt_template='several_objects'))
train_cfg = dict(rewards=dict(point_l1=dict(threshold=30)))
