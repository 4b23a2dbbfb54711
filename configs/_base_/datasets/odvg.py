# Visual grounding in mmdet's ODVG format, here Flickr30k Entities: each phrase of a caption is a
# question, and its boxes are the targets. Without masks the data is for training only, with box and
# point rewards; point_l1 measures to the center of a box. The model needs `several_objects=True`.
#
# For object detection in this format (Objects365, V3Det ...), set label_map_file in the source and
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
