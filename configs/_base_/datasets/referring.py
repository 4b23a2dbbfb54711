# What refcoco.py, refcoco+.py and refcocog.py put in place of mmdet's pipeline, sampler and metric;
# no data set by itself.
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
    # mmdet's text_mode='select_first' asks the first expression of each object, as the table being
    # reproduced does; 'original' asks every expression.
    dataset=dict(_scope_='mmdpad', type='ReferringSegDataset', pipeline=referring_pipeline,
                 test_mode=True))

# mIoU and cIoU of the second are giou and ciou of the first.
referring_evaluator = [dict(type='ReasonSegMetric'), dict(type='RefSegMetric')]
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
