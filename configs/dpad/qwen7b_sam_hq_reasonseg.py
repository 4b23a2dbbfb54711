# As qwen7b_reasonseg.py, with SAM-HQ ViT-H as the mask decoder.
#   python tools/test.py configs/dpad/qwen7b_sam_hq_reasonseg.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Needs syscv-community/sam-hq-vit-huge from the hub in checkpoints/sam-hq-vit-huge.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(
    _delete_=True, type='SAMHQDecoder', pretrained='checkpoints/sam-hq-vit-huge'))
