# As qwen7b_reasonseg.py, with masks by a detector of mmdet in place of SAM: for each answer the
# instance of Mask2Former that fits its box and points best.
#   python tools/test.py configs/dpad/qwen7b_mask2former.py work_dirs/qwen7b_reasonseg/iter_187.pth
# The checkpoint is the one that mmdet's model zoo lists for this config.
_base_ = 'qwen7b_reasonseg.py'
model = dict(
    decoder=dict(
        _delete_=True, type='DetectorDecoder',
        config='mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py',
        checkpoint='checkpoints/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.pth'))
