# The published training data, RefCOCOg prepared at 840 x 840 (Ricky06662/refCOCOg_9k_840): 3,000
# rows, drawn as published. Expects <data_root>/data/*.parquet as downloaded, or what `save_to_disk`
# wrote. Needs `pip install pyarrow`.
train_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromSolution'),
    dict(type='PackReasoningInputs')
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='SegZeroDataset',
        data_root='data/refCOCOg_9k_840/',
        num_samples=3000,
        sample_seed=9,
        pipeline=train_pipeline))
