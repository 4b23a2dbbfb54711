# Three tasks in one run, as in VisionReasoner's mixture: DPAD's segmentation of one object
# (RefCOCOg), of several objects or none (VisionReasoner's data), and open-vocabulary detection
# (COCO), a third of the prompts each.
#   pip install -e .[data]
#   python tools/train.py configs/dpad/qwen7b_mixed_tasks.py
#   python tools/test.py configs/dpad/qwen7b_mixed_tasks.py \
#       work_dirs/qwen7b_mixed_tasks/iter_560.pth
# Not a published recipe: VisionReasoner's data also has counting; its rewards are others. Needs
# checkpoints/ and data/ as for qwen7b_reasonseg.py, qwen7b_several_objects.py and
# qwen7b_coco_labels.py. Not run with the published weights. docs/tasks.md explains the parts.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/seg_zero_eval.py',
    '../_base_/datasets/refcocog_9k_840.py', '../_base_/schedules/grpo.py',
    '../_base_/default_runtime.py'
]

model = dict(tasks=dict(
    segmentation=dict(type='SegmentationTask'),
    several_objects=dict(type='SegmentationTask', several_objects=True),
    detection=dict(type='DetectionTask')))

# The prompts of a task are as many as its items.
num_samples = 3000
segmentation = dict(
    type='SegZeroDataset', task='segmentation', data_root='data/refCOCOg_9k_840/',
    num_samples=num_samples, pipeline=_base_.train_pipeline)
several_objects = dict(
    type='SegZeroDataset', task='several_objects', several_objects=True,
    data_root='data/VisionReasoner_multi_object_7k_840/', num_samples=num_samples,
    pipeline=_base_.train_pipeline)
coco = dict(
    type='QuestionDataset', task='detection', several_objects=True,
    questions=dict(type='QuestionFromClasses', max_classes=20))
box_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs')
]
train_source = dict(
    type='CocoDataset', data_root='data/coco/', ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'), filter_cfg=dict(filter_empty_gt=True, min_size=32))
val_source = dict(
    type='CocoDataset', data_root='data/coco/', ann_file='annotations/instances_val2017.json',
    data_prefix=dict(img='val2017/'))
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    segmentation, several_objects,
    dict(coco, source=train_source, num_samples=num_samples, pipeline=box_pipeline)]))

# ReasonSeg for segmentation, COCO for detection.
reasonseg_val = dict(_base_.val_dataloader.dataset, task='segmentation')
reasonseg_test = dict(_base_.test_dataloader.dataset, task='segmentation')
coco_val = dict(
    coco, source=val_source, test_mode=True, pipeline=box_pipeline,
    questions=dict(type='QuestionFromClasses', negatives='all', max_classes=20))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='ConcatDataset',
    datasets=[reasonseg_val, dict(coco_val, num_samples=500)]))
test_dataloader = dict(dataset=dict(
    _delete_=True, type='ConcatDataset', datasets=[reasonseg_test, coco_val]))
segments = dict(tasks=['segmentation', 'several_objects'])
detects = dict(tasks=['detection'])
train_cfg = dict(
    max_iters=560,  # one pass: 9,000 questions / 16
    rewards=dict(
        _delete_=True,
        thinking_format=dict(type='ThinkingFormatReward', **segments),
        segmentation_format=dict(type='SegmentationFormatReward', **segments),
        box_iou=dict(type='BoxIoUReward', threshold=0.5, **segments),
        box_l1=dict(type='BoxL1Reward', threshold=10, **segments),
        point_l1=dict(type='PointL1Reward', threshold=100, tasks=['segmentation']),
        # VisionReasoner's threshold for the only point of each object
        point_l1_several=dict(type='PointL1Reward', threshold=30, tasks=['several_objects']),
        detection_format=dict(type='ThinkingFormatReward', caption=False, **detects),
        detection_f1=dict(type='DetectionF1Reward', weight=2.0, **detects),
        detection_iou=dict(type='DetectionIoUReward', **detects),
        detection_count=dict(type='CountReward', **detects)))
custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator=_base_.discriminator, form='binary',
         **segments),
    # Each description is compared with the boxes of the other objects.
    dict(type='DiscriminativeRewardHook', name='descriptions', per_instance=True,
         contrast='others', discriminator=_base_.discriminator, form='binary', **detects)
]

val_evaluator = dict(
    _delete_=True, type='MultiDatasetsEvaluator', dataset_prefixes=['segmentation', 'detection'],
    metrics=[dict(type='ReasonSegMetric', ignore_regions='target'),
             dict(type='DetectionMetric')])
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='segmentation/reasonseg/giou'))
