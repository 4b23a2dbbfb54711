# COCO as questions: one for each category in an image, with all instances of the category as its
# targets; crowds are ignored. Files are laid out as for mmdet:
# data/coco/annotations/instances_{train,val}2017.json and data/coco/{train,val}2017/*.jpg. The
# model also needs `several_objects=True`.
#
# For another mmdet data set with masks and labels, inherit its file instead of coco_instance.py
# (lvis_v1_instance.py, cityscapes_instance.py ...). For one without masks, use odvg.py's pipeline.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

questions = dict(type='QuestionFromLabel', template='{label}')
train_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadInstanceMasks'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromMask'),
    dict(type='PackReasoningInputs')
]
test_pipeline = train_pipeline

train_dataloader = dict(
    batch_size=16,
    drop_last=True,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        _delete_=True, type='QuestionDataset', source=_base_.train_dataloader.dataset,
        questions=questions, several_objects=True, num_samples=3000, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='LengthSortedSampler'),
    dataset=dict(
        _delete_=True, type='QuestionDataset', source=_base_.val_dataloader.dataset,
        questions=questions, several_objects=True, num_samples=500, test_mode=True,
        pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader['dataset'], num_samples=None))

val_evaluator = [dict(type='ReasonSegMetric', ignore_regions='exclude')]
test_evaluator = val_evaluator
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
