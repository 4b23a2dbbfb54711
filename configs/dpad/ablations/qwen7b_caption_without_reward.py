# The description is asked for but earns nothing: DPAD without its reward.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = []
