# The prepared evaluation copies of Seg-Zero and DPAD: Ricky06662/ReasonSeg_val, ReasonSeg_test,
# refcoco_testA, refcocoplus_testA, refcocog_test. Expects <data_root>/data/*.parquet as downloaded,
# or what `save_to_disk` wrote. Needs `pip install pyarrow`. To switch to another copy, add one line
# to a config,
#   test_dataloader = dict(dataset=dict(data_root='data/refcoco_testA/'))
# or pass --cfg-options test_dataloader.dataset.data_root=data/refcoco_testA/
# In these copies 'ignore' regions are part of the target, so ignore_regions='exclude' raises an
# error.
_base_ = './reasonseg.py'
dataset_type = 'SegZeroEvalDataset'
data_root = 'data/'

test_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='LoadInstanceMasks'),
    *_base_.test_pipeline[2:]
]
val_dataloader = dict(dataset=dict(
    type=dataset_type, data_root=data_root + 'ReasonSeg_val/', split='test',
    pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(
    type=dataset_type, data_root=data_root + 'ReasonSeg_test/', split='test',
    pipeline=test_pipeline))
