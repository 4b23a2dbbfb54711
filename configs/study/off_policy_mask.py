# Rollouts are one update old; bad responses that the policy has become less likely to write by more
# than 0.01 nats per token are left out of the loss (DeepSeek-V3.2).
_base_ = './stale_by_one.py'
arm = dict(group='other', title='+ discriminative, one update old, masked', seeds=3,
           compare_with=['stale_by_one', 'discriminative'])

model = dict(loss=dict(off_policy_mask_threshold=0.01))
