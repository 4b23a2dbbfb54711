# DPAD with a low-rank adapter on Qwen2.5-VL-7B, otherwise as qwen7b_reasonseg.py.
#   pip install -e .[data,lora]
#   python tools/train.py configs/dpad/qwen7b_lora_reasonseg.py
# Not run at full size. Frozen bfloat16 weights, the float32 adapter and its AdamW state take about
# 20 GB of accelerator memory (an estimate); activations come on top, the logits of a group above
# all. Rank and learning rate are guesses; the paper trains all weights.
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(dtype='bfloat16', lora=dict(r=64, lora_alpha=128)))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
