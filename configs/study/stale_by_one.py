# Samples the responses of each iteration while the previous one updates, so they come from weights
# that are one iteration old; the loss corrects for it by token weights of at most 2.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, rollouts one update old', seeds=3,
           compare_with=['caption', 'discriminative'])

model = dict(rollout_engine=dict(type='SharedPrefixRollout', records_log_probs=True))
train_cfg = dict(max_staleness=1)
