# DPAD on gRefCOCO, with several objects per question, or none: trained on 3,000 expressions of the
# train split, evaluated on testA.
#   python tools/train.py configs/dpad/qwen7b_grefcoco.py
#   python tools/test.py configs/dpad/qwen7b_grefcoco.py work_dirs/qwen7b_grefcoco/iter_187.pth
# Not a published recipe: DPAD's, with VisionReasoner's answer format and point threshold. Needs
# data/coco/ as described in configs/_base_/datasets/grefcoco.py. Not run with the published
# weights.
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
