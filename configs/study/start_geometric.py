# The start policy on the prompt of geometric.py, which asks for no caption. Nothing is trained.
_base_ = './geometric.py'
arm = dict(group='main', title='start policy, no caption', seeds=5, trained=False)
