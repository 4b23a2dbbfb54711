# As qwen7b_reasonseg.py, with masks from an mmdet detector instead of SAM: each answer gets the
# Mask2Former instance that best matches its box and points.
#   python tools/test.py configs/dpad/qwen7b_mask2former.py work_dirs/qwen7b_reasonseg/iter_187.pth
# The decoder's checkpoint is the one that mmdet's model zoo lists for its config.
_base_ = 'qwen7b_reasonseg.py'
model = dict(
    decoder=dict(
        _delete_=True, type='DetectorDecoder',
        config='mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py',
        checkpoint='checkpoints/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.pth'))
