# Groups without a signal are replaced by some of the latest 48 with one, four batches.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, groups replayed', seeds=5,
           compare_with=['caption', 'discriminative'])

train_cfg = dict(replay_size=48)
