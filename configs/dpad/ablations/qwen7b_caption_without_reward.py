# The prompt asks for a caption, but nothing rewards it: DPAD without its reward.
_base_ = '../qwen7b_reasonseg.py'

custom_hooks = []
