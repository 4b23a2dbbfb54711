# The policy writes a caption, which is not rewarded: DPAD without its reward.
_base_ = './discriminative.py'
arm = dict(group='main', title='+ caption without its reward', seeds=5,
           compare_with=['geometric'])

custom_hooks = []
