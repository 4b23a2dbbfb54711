# The published recipe: 16 prompts x 8 responses per step, one update per rollout.
rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward'),
    segmentation_format=dict(type='SegmentationFormatReward'),
    box_iou=dict(type='BoxIoUReward', threshold=0.5),
    box_l1=dict(type='BoxL1Reward', threshold=10),  # pixels of the model image
    point_l1=dict(type='PointL1Reward', threshold=100))

train_cfg = dict(type='GRPOTrainLoop', max_iters=187, val_interval=50, rewards=rewards,
                 tokens_per_micro_batch=12288)  # bounds the memory of an update
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    # Without `fused`, a step allocates a temporary as large as the weights.
    optimizer=dict(type='AdamW', lr=1e-6, betas=(0.9, 0.999), weight_decay=1e-2, fused=True),
    clip_grad=dict(max_norm=1.0))
# Prompts per step over all processes at this learning rate, for --auto-scale-lr.
auto_scale_lr = dict(enable=False, base_batch_size=16)
param_scheduler = dict(type='ConstantLR', factor=1.0, by_epoch=False)
