# DPAD on COCO's categories, a list of objects as the answer: trained on 3,000 questions of
# train2017, evaluated on val2017.
#   python tools/train.py configs/dpad/qwen7b_coco_labels.py
#   python tools/test.py configs/dpad/qwen7b_coco_labels.py \
#       work_dirs/qwen7b_coco_labels/iter_187.pth
# No published recipe: DPAD's, with VisionReasoner's form of an answer and its bound on points.
# Needs data/coco/ as configs/_base_/datasets/coco_labels.py says. Not run with the real weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/coco_labels.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]

model = dict(several_objects=True, policy=dict(prompt_template='several_objects'))
train_cfg = dict(rewards=dict(point_l1=dict(threshold=30)))
