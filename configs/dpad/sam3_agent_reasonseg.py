# A baseline without training: Qwen2.5-VL-7B names a phrase, SAM 3 finds its instances, and
# Qwen2.5-VL-7B accepts or rejects each (docs/decoders.md).
#   python tools/test.py configs/dpad/sam3_agent_reasonseg.py
# Needs facebook/sam3 from the hub in checkpoints/sam3.
_base_ = './qwen7b_sam3_concept_reasonseg.py'

model = dict(type='ConceptAgent', max_rounds=3, max_instances=8)
