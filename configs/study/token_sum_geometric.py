# Geometric rewards only, each token with the same weight in the loss (Dr. GRPO): does the mean over
# a sequence shorten chains that nobody asked to be short?
_base_ = './geometric.py'
arm = dict(group='other', title='geometric, token sums', seeds=3, compare_with=['geometric'])

model = dict(loss=dict(aggregation='seq_mean_token_sum_norm'))
