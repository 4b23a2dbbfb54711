# gRefCOCO: data/coco/grefcoco/{instances.json,grefs(unc).json}; images and splits as for RefCOCO.
# An expression means one object, several, or none; all are evaluated (GRES, arXiv 2306.00968).
_base_ = './refcoco.py'

dataset = dict(ann_file='grefcoco/instances.json', split_file='grefcoco/grefs(unc).json',
               text_mode='original', several_objects=True)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
# RefSegMetric does not support questions without a target.
val_evaluator = [dict(type='ReasonSegMetric')]
test_evaluator = val_evaluator
