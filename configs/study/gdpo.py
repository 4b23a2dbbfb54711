# Each reward term is normalized within its group before they are summed (GDPO), so a caption that
# discriminates counts as much as a box that fits, however much each of them varies.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, terms normalized (GDPO)', seeds=3,
           compare_with=['caption', 'discriminative'])

train_cfg = dict(advantage='gdpo')
