# DPAD with Qwen2.5-VL-7B: trained on RefCOCOg (3,000 samples), evaluated on ReasonSeg.
#   python tools/train.py configs/dpad/qwen7b_reasonseg.py
#   python tools/test.py configs/dpad/qwen7b_reasonseg.py work_dirs/qwen7b_reasonseg/iter_187.pth
# Needs checkpoints/ and data/ as described in docs/get_started.md. Full fine-tuning with float32
# master weights and AdamW takes about 191 GB of accelerator memory, by
# tools/analysis_tools/estimate_cost.py. Not run with the published weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/reasonseg.py',
    '../_base_/datasets/refcocog_9k_840.py', '../_base_/schedules/grpo.py',
    '../_base_/default_runtime.py'
]
