# DPAD with a low-rank adapter on GLM-4.5V, a mixture of 106 billion weights, of which a token uses
# 12 billion, otherwise as glm4_1v9b_reasonseg.py.
#   pip install -e .[data,lora]
#   python tools/train.py configs/dpad/glm4_5v_lora_reasonseg.py
# Not a published recipe, and not run with the published weights. Takes about 234 GB of accelerator
# memory, by tools/analysis_tools/estimate_cost.py, of which the weights are 215 GB. The adapter is
# in attention, the first layer's MLP and the shared experts; the other experts are frozen. Rank and
# learning rate are guesses.
_base_ = './glm4_1v9b_reasonseg.py'

model = dict(policy=dict(pretrained='checkpoints/GLM-4.5V', dtype='bfloat16',
                         lora=dict(r=64, lora_alpha=128)))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
