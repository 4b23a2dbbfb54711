# DPAD on RefCOCO through mmdet's RefCocoDataset: trained on 3,000 expressions of the train split,
# evaluated on val during training and on testA.
#   python tools/train.py configs/dpad/qwen7b_refcoco_mmdet.py
#   python tools/test.py configs/dpad/qwen7b_refcoco_mmdet.py \
#       work_dirs/qwen7b_refcoco_mmdet/iter_187.pth
# Not a published recipe: DPAD's. Needs data/coco/ as described in
# configs/_base_/datasets/refcoco.py. Not run with the published weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/refcoco_mmdet.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]
