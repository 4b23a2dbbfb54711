# DPAD with a low-rank adapter on Qwen3.5-35B-A3B, otherwise as qwen3_5_9b_reasonseg.py.
#   pip install -e .[data,lora]
#   python tools/train.py configs/dpad/qwen3_5_35b_a3b_lora_reasonseg.py
# Needs about 85 GB of accelerator memory. Not a published recipe, and not run with the published
# weights. The adapter is in the linear layers, not in the experts; rank and learning rate are
# guesses, as in qwen7b_lora_reasonseg.py.
_base_ = './qwen3_5_9b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/Qwen3.5-35B-A3B', dtype='bfloat16',
                         lora=dict(r=64, lora_alpha=128)))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
