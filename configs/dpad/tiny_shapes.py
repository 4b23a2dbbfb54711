# A toy version of DPAD: the complete method on synthetic scenes, on a CPU, in minutes.
#   python tools/dataset_converters/shapes_world.py data/shapes_world
#   python tools/train.py configs/dpad/tiny_shapes.py
#   python tools/test.py configs/dpad/tiny_shapes.py work_dirs/tiny_shapes/iter_120.pth
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/reasonseg.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]
import mmdpad.toy  # noqa: E402  After `_base_`, by which mmengine tells kinds of configs apart.

# What people change most.
data_root = 'data/shapes_world/'
max_iters = 120
prompts_per_step = 12
lr = 2e-4

# The toy models are saved in the same formats as the real ones.
weights = str(mmdpad.toy.WEIGHTS_DIR)
model_image_size = (112, 112)

model = dict(
    policy=dict(pretrained=weights + '/policy', prompt_template='find "{question}"',
                gradient_checkpointing=False),
    decoder=dict(model='vit_shapes', checkpoint=weights + '/sam/sam_shapes.pth'),
    loss=dict(kl_coef=0.03, entropy_coef=0.0),
    train_cfg=dict(max_new_tokens=112),
    test_cfg=dict(max_new_tokens=112))
discriminator = dict(type='CLIPDiscriminator', model_name='local-dir:' + weights + '/clip',
                     pretrained=None)
custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator=discriminator, form='binary')
]
# Thresholds in pixels of the 112-pixel model image.
rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward'),
    segmentation_format=dict(type='SegmentationFormatReward'),
    box_iou=dict(type='BoxIoUReward', threshold=0.5),
    box_l1=dict(type='BoxL1Reward', threshold=2),
    point_l1=dict(type='PointL1Reward', threshold=13))

pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadReasonSegMask'),
    dict(type='ModelImageResize', size=model_image_size),
    dict(type='TargetsFromMask'),
    dict(type='PackReasoningInputs')
]
train_dataloader = dict(
    batch_size=prompts_per_step,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='ReasonSegDataset', data_root=data_root, split='train', pipeline=pipeline))
val_dataloader = dict(batch_size=64, num_workers=1,
                      dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = dict(batch_size=64, num_workers=1,
                       dataset=dict(data_root=data_root, pipeline=pipeline))

# On held-out scenes, also measure the reward terms, including the discriminative one.
val_evaluator = [
    dict(type='ReasonSegMetric', ignore_regions='target', save_masks=True),
    dict(type='RewardMetric', rewards=dict(
        **rewards, discriminative=dict(type='DiscriminativeReward', discriminator=discriminator)))
]
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=max_iters, rewards=rewards,
                 tokens_per_micro_batch=None)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=prompts_per_step)
# Log the means of every 5 iterations: with 12 prompts, a single iteration is noisy.
default_hooks = dict(checkpoint=dict(interval=40), logger=dict(interval=5))
log_processor = dict(window_size=5, mean_pattern='.*')
