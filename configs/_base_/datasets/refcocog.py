# RefCOCOg (UMD): data/coco/refcocog/{instances.json,refs(umd).p}; images as for RefCOCO.
# Splits: train, val, test.
_base_ = ['mmdet::_base_/datasets/refcocog.py', './referring.py']

test_pipeline = _base_.referring_pipeline
val_dataloader = _base_.referring_loader
test_dataloader = _base_.referring_loader
val_evaluator = _base_.referring_evaluator
test_evaluator = _base_.referring_evaluator
