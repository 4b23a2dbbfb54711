# RefCOCO testA: evaluates the model that qwen7b_reasonseg.py trains. Training with this config
# would be the same, so there is no need to.
#   python tools/test.py configs/dpad/qwen7b_refcoco_testA.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Another split: --cfg-options test_dataloader.dataset.split=testB (or val).
# Needs data/coco/ as described in configs/_base_/datasets/refcoco.py. Not run with the published
# weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/refcoco.py',
    '../_base_/datasets/refcocog_9k_840.py', '../_base_/schedules/grpo.py',
    '../_base_/default_runtime.py'
]
