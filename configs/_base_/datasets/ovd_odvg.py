# mmdet's ODVG format for open-vocabulary detection: Objects365 v1 (detection, with a label map) and
# Flickr30k Entities (grounding: the phrases of a caption are its classes), as prepared for MM
# Grounding DINO. Evaluated on COCO, without having seen its classes as such.
_base_ = './ovd_coco.py'

objects365 = dict(
    type='ODVGDataset', data_root='data/objects365v1/', ann_file='o365v1_train_odvg.json',
    label_map_file='o365v1_label_map.json', data_prefix=dict(img='train/'), return_classes=True)
flickr30k = dict(
    type='ODVGDataset', data_root='data/flickr30k_entities/',
    ann_file='final_flickr_separateGT_train_vg.json', data_prefix=dict(img='flickr30k_images/'),
    return_classes=True)
questions = dict(type='QuestionDataset', task='detection', several_objects=True,
                 questions=_base_.questions, num_samples=1500, pipeline=_base_.pipeline)
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(questions, source=objects365), dict(questions, source=flickr30k)]))
