# The published protocol: as qwen7b_reasonseg.py, with masks by SAM 2 (hiera-large) in place of SAM.
#   python tools/train.py configs/dpad/qwen7b_sam2_reasonseg.py
#   python tools/test.py configs/dpad/qwen7b_sam2_reasonseg.py \
#       work_dirs/qwen7b_sam2_reasonseg/iter_187.pth
# Training draws no masks in its rewards, so a checkpoint of qwen7b_reasonseg.py may be tested too.
# Needs: the folder facebook/sam2-hiera-large of the hub as checkpoints/sam2-hiera-large.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(
    _delete_=True, type='SAM2Decoder', pretrained='checkpoints/sam2-hiera-large'))
