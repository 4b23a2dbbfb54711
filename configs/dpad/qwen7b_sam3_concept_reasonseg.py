# As qwen7b_reasonseg.py, with SAM 3 as the mask decoder: it finds what the answer's caption says,
# and the answer's box and points pick the instance (docs/decoders.md).
#   python tools/test.py configs/dpad/qwen7b_sam3_concept_reasonseg.py \
#       work_dirs/qwen7b_reasonseg/iter_187.pth
# Needs facebook/sam3 from the hub in checkpoints/sam3.
_base_ = './qwen7b_reasonseg.py'

model = dict(decoder=dict(_delete_=True, type='SAM3ConceptDecoder', pretrained='checkpoints/sam3'))
