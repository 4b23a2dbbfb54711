# DPAD on RefCOCO by mmdet's RefCocoDataset: trained on 3,000 expressions of its train split,
# evaluated on val while training and on testA.
#   python tools/train.py configs/dpad/qwen7b_refcoco_mmdet.py
#   python tools/test.py configs/dpad/qwen7b_refcoco_mmdet.py \
#       work_dirs/qwen7b_refcoco_mmdet/iter_187.pth
# No published recipe: DPAD's. Needs data/coco/ as configs/_base_/datasets/refcoco.py says. Not run
# with the real weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/refcoco_mmdet.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]
