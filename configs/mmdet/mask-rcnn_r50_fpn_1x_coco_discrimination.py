# mmdet's Mask R-CNN, unchanged, with two parts of mmdpad: after each epoch, DiscriminationMetric
# measures whether CLIP can tell the predicted boxes from the whole image, and checkpoints contain
# plain data only, so that `--resume` works with torch 2.6 and newer. Data in data/coco/, as for
# mmdet.
#   python tools/train.py configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py
#   python tools/test.py configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py \
#       work_dirs/mask-rcnn_r50_fpn_1x_coco_discrimination/epoch_12.pth
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

# The scope is mmdet's; this import makes parts of mmdpad available under the prefix `mmdpad.`.
custom_imports = dict(imports=['mmdpad.registry'], allow_failed_imports=False)

# What people change most.
template = 'a photo of a {label}'
score_thr = 0.3

discrimination = dict(
    type='mmdpad.DiscriminationMetric', template=template, score_thr=score_thr,
    discriminator=dict(type='mmdpad.CLIPDiscriminator', model_name='ViT-B-32', pretrained='openai'))
val_evaluator = [{{_base_.val_evaluator}}, discrimination]
test_evaluator = [{{_base_.test_evaluator}}, discrimination]

custom_hooks = [dict(type='mmdpad.SafeCheckpointHook')]
