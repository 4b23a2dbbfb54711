# The untrained start policy with the prompt of geometric.py, which asks for no caption.
_base_ = './geometric.py'
arm = dict(group='main', title='start policy, no caption', seeds=5, trained=False)
