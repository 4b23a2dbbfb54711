# The discriminative reward, with the same weight for each token in the loss (Dr. GRPO).
_base_ = './discriminative.py'
arm = dict(group='other', title='discriminative, token sums', seeds=3,
           compare_with=['token_sum_geometric', 'discriminative'])

model = dict(loss=dict(aggregation='seq_mean_token_sum_norm'))
