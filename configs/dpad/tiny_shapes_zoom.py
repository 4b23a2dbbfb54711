# The toy version of looking again: scenes of 1,120 pixels with objects of 8 to 20, of which the
# model image shows one or two pixels. The policy may look at a part of the scene before it answers.
#   python tools/dataset_converters/shapes_world.py data/tiny_shapes --world tiny --train 800
#   python tools/train.py configs/dpad/tiny_shapes_zoom.py
#   python tools/test.py configs/dpad/tiny_shapes_zoom.py work_dirs/tiny_shapes_zoom/iter_60.pth
# docs/results_zoom.md has its results.
_base_ = './tiny_shapes.py'
# What people change most.
data_root = 'data/tiny_shapes/'
max_iters = 60
lr = 4e-4

# The toy policy knows this prompt. Others should explain the call: `prompt_template='zoom'`.
model = dict(
    policy=dict(pretrained=_base_.weights + '/zoom', prompt_template='look "{question}"'),
    # `decode_in_crop`: the decoder sees what the policy saw last, too.
    conversation=dict(max_turns=2, max_tokens=256, decode_in_crop=True,
                      limits=dict(min_side=50, size=_base_.model_image_size)),
    train_cfg=dict(max_new_tokens=56),
    test_cfg=dict(max_new_tokens=56))

# The toy policy writes no captions here, so there is no discriminative term. A pixel of the model
# image is ten of the scene: boxes and points are compared there, with targets that are not rounded.
custom_hooks = []
rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward', caption=False),
    segmentation_format=dict(type='SegmentationFormatReward'),
    box_iou=dict(type='BoxIoUReward', threshold=None, frame='original'),
    box_is_right=dict(type='BoxIoUReward', threshold=0.5, frame='original'),
    point_l1=dict(type='PointL1Reward', threshold=6, frame='original'),
    crop_contains_target=dict(type='CropContainsTargetReward'),
    turn_cost=dict(type='TurnCostReward', weight=0.1))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters,
                 rewards=dict(_delete_=True, **rewards))

pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadReasonSegMask'),
    dict(type='ModelImageResize', size=_base_.model_image_size),
    dict(type='TargetsFromMask', whole_pixels=False),
    dict(type='PackReasoningInputs')
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline))
val_evaluator = [
    dict(type='ReasonSegMetric', ignore_regions='target', save_masks=True),
    dict(type='RewardMetric', rewards=rewards)
]
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=lr))
