# ReasonSeg: <data_root>/{train,val,test}/*.jpg + *.json
dataset_type = 'ReasonSegDataset'
data_root = 'data/ReasonSeg/'
model_image_size = (840, 840)  # (width, height) of the image that the policy sees

test_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadReasonSegMask'),
    dict(type='ModelImageResize', size=model_image_size),
    dict(type='TargetsFromMask'),
    dict(type='PackReasoningInputs')
]

val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='LengthSortedSampler'),
    # test_mode keeps annotations without a target (some published ones have none); training skips
    # them.
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline,
                 test_mode=True))
test_dataloader = dict(
    val_dataloader,
    dataset=dict(type=dataset_type, data_root=data_root, split='test', pipeline=test_pipeline,
                 test_mode=True))

# The published table counts ReasonSeg's "ignore" regions as target (Seg-Zero, DPAD); LISA's
# protocol is ignore_regions='exclude'.
val_evaluator = dict(type='ReasonSegMetric', ignore_regions='target')
test_evaluator = val_evaluator
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
