# gRefCOCO: data/coco/grefcoco/{instances.json,grefs(unc).json}, images and splits as RefCOCO. An
# expression means one object, several, or none; every expression is asked (GRES, arXiv 2306.00968).
_base_ = './refcoco.py'

dataset = dict(ann_file='grefcoco/instances.json', split_file='grefcoco/grefs(unc).json',
               text_mode='original', several_objects=True)
val_dataloader = dict(dataset=dataset)
test_dataloader = dict(dataset=dataset)
# RefSegMetric knows no questions that mean nothing.
val_evaluator = [dict(type='ReasonSegMetric')]
test_evaluator = val_evaluator
