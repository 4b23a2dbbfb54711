# qwen7b_ovd_coco.py on Objects365 and Flickr30k Entities in mmdet's ODVG format: trained on 1,500
# questions of each, evaluated on COCO val2017.
#   python tools/train.py configs/dpad/qwen7b_ovd_odvg.py
#   python tools/test.py configs/dpad/qwen7b_ovd_odvg.py \
#       work_dirs/qwen7b_ovd_odvg/iter_187.pth
# Not a published recipe. Needs data as described in configs/_base_/datasets/ovd_odvg.py. Not run
# with the published weights.
_base_ = [
    '../_base_/models/dpad_ovd_qwen2_5_vl.py', '../_base_/datasets/ovd_odvg.py',
    '../_base_/schedules/grpo_detection.py', '../_base_/default_runtime.py'
]

default_hooks = dict(checkpoint=dict(save_best='detection/f1'))
