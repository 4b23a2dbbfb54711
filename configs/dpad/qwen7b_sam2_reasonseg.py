# The published protocol: as qwen7b_reasonseg.py, with SAM 2 (hiera-large) as the mask decoder.
#   python tools/train.py configs/dpad/qwen7b_sam2_reasonseg.py
#   python tools/test.py configs/dpad/qwen7b_sam2_reasonseg.py \
#       work_dirs/qwen7b_sam2_reasonseg/iter_187.pth
# The rewards decode no masks, so you can also test a checkpoint of qwen7b_reasonseg.py.
# Needs facebook/sam2-hiera-large from the hub in checkpoints/sam2-hiera-large.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(
    _delete_=True, type='SAM2Decoder', pretrained='checkpoints/sam2-hiera-large'))
