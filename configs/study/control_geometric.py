# Control: the start policy's captions do not depend on the style of its reasoning.
_base_ = './geometric.py'
arm = dict(group='control', title='control: geometric rewards only', seeds=3,
           compare_with=['control_start'])

start = '{{ fileDirname }}/weights/study_free'
model = dict(policy=dict(pretrained=start))
