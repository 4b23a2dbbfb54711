# RefCOCO (UNC), laid out as for mmdet: data/coco/refcoco/{instances.json,refs(unc).p} and
# data/coco/train2014/*.jpg. Splits: train, val, testA, testB.
_base_ = ['mmdet::_base_/datasets/refcoco.py', './referring.py']

test_pipeline = _base_.referring_pipeline
val_dataloader = _base_.referring_loader
test_dataloader = _base_.referring_loader
val_evaluator = _base_.referring_evaluator
test_evaluator = _base_.referring_evaluator
