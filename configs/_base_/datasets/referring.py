# The pipeline, sampler and metrics with which refcoco.py, refcoco+.py and refcocog.py replace
# mmdet's; not a data set on its own.
model_image_size = (840, 840)  # (width, height) of the image that the policy sees

referring_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadInstanceMasks'),
    dict(type='ModelImageResize', size=model_image_size),
    dict(type='TargetsFromMask'),
    dict(type='PackReasoningInputs')
]
referring_loader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='LengthSortedSampler'),
    # mmdet's text_mode='select_first' asks the first expression of each object, as in the published
    # table; 'original' asks every expression.
    dataset=dict(_scope_='mmdpad', type='ReferringSegDataset', pipeline=referring_pipeline,
                 test_mode=True))

# The second metric's mIoU and cIoU are the first one's giou and ciou.
referring_evaluator = [dict(type='ReasonSegMetric'), dict(type='RefSegMetric')]
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
