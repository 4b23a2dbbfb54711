# DPAD with several objects a question, or none, on gRefCOCO: trained on 3,000 expressions of its
# train split, evaluated on testA.
#   python tools/train.py configs/dpad/qwen7b_grefcoco.py
#   python tools/test.py configs/dpad/qwen7b_grefcoco.py work_dirs/qwen7b_grefcoco/iter_187.pth
# No published recipe: DPAD's, with VisionReasoner's form of an answer and its bound on points.
# Needs data/coco/ as configs/_base_/datasets/grefcoco.py says. Not run with the real weights.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/grefcoco.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]

model = dict(several_objects=True, policy=dict(prompt_template='several_objects'))
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(_base_.val_dataloader.dataset, split='train', test_mode=False, num_samples=3000,
                 sample_seed=9))
val_dataloader = dict(dataset=dict(num_samples=500))
train_cfg = dict(rewards=dict(point_l1=dict(threshold=30)))
