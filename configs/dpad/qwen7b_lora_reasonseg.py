# DPAD with a low-rank adapter on Qwen2.5-VL-7B, otherwise as qwen7b_reasonseg.py.
#   pip install -e .[data,lora]
#   python tools/train.py configs/dpad/qwen7b_lora_reasonseg.py
# Not run at full size. Takes about 29 GB of accelerator memory, by
# tools/analysis_tools/estimate_cost.py. Rank and learning rate are guesses; the paper trains all
# weights.
_base_ = './qwen7b_reasonseg.py'

model = dict(policy=dict(dtype='bfloat16', lora=dict(r=64, lora_alpha=128)))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
