# Control: the other start policy, untrained.
_base_ = './control_discriminative.py'
arm = dict(group='control', title='control: start policy', seeds=3,
           compare_with=[], trained=False)
