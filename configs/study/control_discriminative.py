# Control: the start policy's captions do not depend on the style of its reasoning.
_base_ = './discriminative.py'
arm = dict(group='control', title='control: + discriminative reward (DPAD)', seeds=3,
           compare_with=['control_geometric', 'control_caption'])

start = '{{ fileDirname }}/weights/study_free'
model = dict(policy=dict(pretrained=start))
