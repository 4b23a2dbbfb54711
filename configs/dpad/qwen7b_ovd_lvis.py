# qwen7b_ovd_coco.py on LVIS v1: trained on 3,000 questions, evaluated on val.
#   pip install --no-deps lvis
#   python tools/train.py configs/dpad/qwen7b_ovd_lvis.py
#   python tools/test.py configs/dpad/qwen7b_ovd_lvis.py \
#       work_dirs/qwen7b_ovd_lvis/iter_187.pth
# Not a published recipe. Needs data as described in configs/_base_/datasets/ovd_lvis.py. Not run
# with the published weights.
_base_ = [
    '../_base_/models/dpad_ovd_qwen2_5_vl.py', '../_base_/datasets/ovd_lvis.py',
    '../_base_/schedules/grpo_detection.py', '../_base_/default_runtime.py'
]

default_hooks = dict(checkpoint=dict(save_best='detection/f1'))
