# As qwen7b_reasonseg.py, with masks by the tracker of SAM 3 in place of SAM.
#   python tools/test.py configs/dpad/qwen7b_sam3_reasonseg.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Needs: the folder facebook/sam3 of the hub as checkpoints/sam3.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(_delete_=True, type='SAM3Decoder', pretrained='checkpoints/sam3'))
