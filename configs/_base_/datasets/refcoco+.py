# RefCOCO+ (UNC): data/coco/refcoco+/{instances.json,refs(unc).p}; images and splits as for RefCOCO.
_base_ = ['mmdet::_base_/datasets/refcoco+.py', './referring.py']

test_pipeline = _base_.referring_pipeline
val_dataloader = _base_.referring_loader
test_dataloader = _base_.referring_loader
val_evaluator = _base_.referring_evaluator
test_evaluator = _base_.referring_evaluator
