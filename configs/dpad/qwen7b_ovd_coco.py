# DPAD for open-vocabulary detection on COCO: trained on 3,000 questions for the classes of an image
# and as many absent ones, evaluated on val2017, where every image is asked for all 80 classes.
#   python tools/train.py configs/dpad/qwen7b_ovd_coco.py
#   python tools/test.py configs/dpad/qwen7b_ovd_coco.py \
#       work_dirs/qwen7b_ovd_coco/iter_187.pth
# Not a published recipe. Needs data/coco/ as described in configs/_base_/datasets/ovd_coco.py. Not
# run with the published weights. docs/detection.md explains the parts.
_base_ = [
    '../_base_/models/dpad_ovd_qwen2_5_vl.py', '../_base_/datasets/ovd_coco.py',
    '../_base_/schedules/grpo_detection.py', '../_base_/default_runtime.py'
]

default_hooks = dict(checkpoint=dict(save_best='detection/f1'))
