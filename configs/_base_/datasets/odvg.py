# Visual grounding in mmdet's ODVG format, here of Flickr30k Entities: a phrase of a caption is a
# question and means its boxes. There are no masks, so it is for training, with rewards of boxes
# and points; point_l1 is measured to the center of a box. The model needs `several_objects=True`.
#
# Object detection in this format (Objects365, V3Det ...): label_map_file in the source, and
# dict(type='QuestionFromLabel') as questions.
train_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs')
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='QuestionDataset',
        source=dict(
            type='ODVGDataset',
            data_root='data/flickr30k_entities/',
            ann_file='final_flickr_separateGT_train_vg.json',
            data_prefix=dict(img='flickr30k_images/'),
            return_classes=True),
        questions=dict(type='QuestionFromPhrase'),
        several_objects=True,
        num_samples=3000,
        pipeline=train_pipeline))
