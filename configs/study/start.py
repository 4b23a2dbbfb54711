# The start policy, untrained.
_base_ = './discriminative.py'
arm = dict(group='main', title='start policy', seeds=5,
           compare_with=[], trained=False)
