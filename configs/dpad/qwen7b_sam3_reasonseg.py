# As qwen7b_reasonseg.py, with SAM 3's tracker as the mask decoder.
#   python tools/test.py configs/dpad/qwen7b_sam3_reasonseg.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Needs facebook/sam3 from the hub in checkpoints/sam3.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(_delete_=True, type='SAM3Decoder', pretrained='checkpoints/sam3'))
