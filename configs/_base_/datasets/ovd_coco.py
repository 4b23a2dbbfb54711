# COCO for open-vocabulary detection: a question asks for the classes in an image and as many that
# it lacks; an evaluation asks for all 80, in four questions about each image. Files are laid out as
# for mmdet: data/coco/annotations/instances_{train,val}2017.json, data/coco/{train,val}2017/*.jpg.
pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs')
]
questions = dict(type='QuestionFromClasses', negatives=1.0, max_classes=20)
all_classes = dict(type='QuestionFromClasses', negatives='all', max_classes=20)

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='QuestionDataset', task='detection', several_objects=True, num_samples=3000,
        source=dict(
            type='CocoDataset', data_root='data/coco/',
            ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/')),
        questions=questions, pipeline=pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='LengthSortedSampler'),
    dataset=dict(
        type='QuestionDataset', task='detection', several_objects=True, num_samples=500,
        test_mode=True,
        source=dict(
            type='CocoDataset', data_root='data/coco/',
            ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/')),
        questions=all_classes, pipeline=pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], num_samples=None))

val_evaluator = [
    dict(type='DetectionMetric'),
    dict(type='CocoMetric', ann_file='data/coco/annotations/instances_val2017.json')
]
test_evaluator = val_evaluator
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
