# The toy version of open-vocabulary detection: boxes, shapes as classes, and a description of each
# object, which the discriminative term compares with its own object, the others and the image.
#   python tools/dataset_converters/shapes_world.py data/shapes_world
#   python tools/train.py configs/dpad/tiny_shapes_ovd.py
#   python tools/test.py configs/dpad/tiny_shapes_ovd.py work_dirs/tiny_shapes_ovd/iter_30.pth
# docs/results_tasks.md has its results.
_base_ = './tiny_shapes.py'
# What people change most.
max_iters = 30
lr = 3e-4

model = dict(
    policy=dict(pretrained=_base_.weights + '/tasks', prompt_template='default'),
    decoder=None,
    tasks=dict(detection=dict(type='DetectionTask', max_objects=20,
                              template='detect "{question}"')),
    # AP ranks boxes by the probability of their labels and the fit of their descriptions.
    box_scorer=dict(type='CombinedScorer', scorers=[
        dict(type='LikelihoodScorer'),
        dict(type='DiscriminationScorer', discriminator=_base_.discriminator, alpha=10.0)
    ]),
    train_cfg=dict(max_new_tokens=128),
    test_cfg=dict(max_new_tokens=160))
describes = dict(discriminator=_base_.discriminator, per_instance=True, contrast='others')
custom_hooks = [dict(type='DiscriminativeRewardHook', form='binary', **describes)]
rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward', caption=False),
    detection_f1=dict(type='DetectionF1Reward', threshold=0.5),
    detection_iou=dict(type='DetectionIoUReward', threshold=0.5),
    count=dict(type='CountReward', weight=0.5))

pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=_base_.model_image_size),
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs')
]
source = dict(
    type='CocoDataset', data_root=_base_.data_root, data_prefix=dict(img=''),
    metainfo=dict(classes=('circle', 'square', 'triangle', 'star')))
# Every question asks for all shapes, whether a scene has them or not.
asks = dict(_delete_=True, type='QuestionDataset', task='detection', several_objects=True,
            questions=dict(type='QuestionFromClasses', negatives='all'), pipeline=pipeline)
train_dataloader = dict(dataset=dict(
    asks, source=dict(source, ann_file='annotations/instances_train.json')))
test_dataloader = dict(dataset=dict(
    asks, source=dict(source, ann_file='annotations/instances_test.json'), test_mode=True))
test_evaluator = [
    dict(type='DetectionMetric'),
    dict(type='CocoMetric', ann_file=_base_.data_root + 'annotations/instances_test.json'),
    dict(type='RewardMetric', rewards=dict(
        **rewards, discriminative=dict(type='DiscriminativeReward', **describes)))
]
# Before and after are compared on the held-out scenes; nothing is chosen during the run.
val_dataloader = val_cfg = val_evaluator = None
train_cfg = dict(max_iters=max_iters, rewards=dict(_delete_=True, **rewards))
optim_wrapper = dict(optimizer=dict(lr=lr))
default_hooks = dict(checkpoint=dict(save_best=None))
