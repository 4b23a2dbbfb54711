# Control: the other start policy, not trained.
_base_ = './control_discriminative.py'
arm = dict(group='control', title='control: start policy', seeds=3,
           compare_with=[], trained=False)
