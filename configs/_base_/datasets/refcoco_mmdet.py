# RefCOCO through mmdet's own RefCocoDataset, for training and evaluation; files as in refcoco.py.
# refcoco.py asks the same questions through ReferringSegDataset, which checks the files, keeps all
# references to an object and runs no code from a pickle. Use this file only if a config already
# has mmdet's data set.
_base_ = 'mmdet::_base_/datasets/refcoco.py'

questions = dict(type='QuestionFromExpression')
test_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadInstanceMasks'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromMask'),
    dict(type='PackReasoningInputs')
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='QuestionDataset',
        source=dict(_base_.val_dataloader.dataset, split='train', text_mode='original'),
        questions=questions, num_samples=3000, pipeline=test_pipeline))
val_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='LengthSortedSampler'),
    dataset=dict(
        _delete_=True, type='QuestionDataset', source=_base_.val_dataloader.dataset,
        questions=questions, test_mode=True, pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(
    val_dataloader['dataset'], source=_base_.test_dataloader.dataset))

val_evaluator = [dict(type='ReasonSegMetric'), dict(type='RefSegMetric')]
test_evaluator = val_evaluator
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
