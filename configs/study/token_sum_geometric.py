# Geometric rewards only, with the same weight for each token in the loss (Dr. GRPO): does the mean
# over a sequence shorten the reasoning although no reward asks for it?
_base_ = './geometric.py'
arm = dict(group='other', title='geometric, token sums', seeds=3, compare_with=['geometric'])

model = dict(loss=dict(aggregation='seq_mean_token_sum_norm'))
