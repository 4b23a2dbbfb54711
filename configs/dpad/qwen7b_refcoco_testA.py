# RefCOCO testA: evaluates what qwen7b_reasonseg.py trains (training here would be
# the same, so there is nothing to train again):
#   python tools/test.py configs/dpad/qwen7b_refcoco_testA.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Another split: --cfg-options test_dataloader.dataset.split=testB (or val).
# Needs data/coco/ as configs/_base_/datasets/refcoco.py says. Not run with the real weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/refcoco.py',
    '../_base_/datasets/refcocog_9k_840.py', '../_base_/schedules/grpo.py',
    '../_base_/default_runtime.py'
]
