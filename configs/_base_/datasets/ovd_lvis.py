# LVIS v1 for open-vocabulary detection. Negatives come from an image's list of absent classes; an
# evaluation asks for all classes that are known about an image. Needs `pip install --no-deps lvis`,
# data/coco/annotations/lvis_v1_{train,val}.json, data/coco/{train,val}2017/*.jpg.
_base_ = './ovd_coco.py'

source = dict(type='LVISV1Dataset', data_root='data/coco/', data_prefix=dict(img=''))
train_dataloader = dict(dataset=dict(
    source=dict(source, _delete_=True, ann_file='annotations/lvis_v1_train.json')))
val_dataloader = dict(dataset=dict(
    source=dict(source, _delete_=True, ann_file='annotations/lvis_v1_val.json')))
test_dataloader = dict(dataset=dict(
    source=dict(source, _delete_=True, ann_file='annotations/lvis_v1_val.json')))

val_evaluator = [
    dict(type='DetectionMetric'),
    dict(type='LVISMetric', ann_file='data/coco/annotations/lvis_v1_val.json')
]
test_evaluator = val_evaluator
