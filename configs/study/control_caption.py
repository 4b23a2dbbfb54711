# Control: the start policy's captions do not depend on the style of its reasoning.
_base_ = './caption.py'
arm = dict(group='control', title='control: + caption without its reward', seeds=3,
           compare_with=['control_geometric'])

start = '{{ fileDirname }}/weights/study_free'
model = dict(policy=dict(pretrained=start))
