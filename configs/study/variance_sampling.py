# Questions that the start policy answers right sometimes are asked more often than those that it
# answers right always or never.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, variance-aware sampling', seeds=3,
           compare_with=['caption', 'discriminative'], pass_rates=True)

train_dataloader = dict(sampler=dict(
    _delete_=True, type='VarianceSampler', file='data/study/pass_rates.jsonl', uniform=0.5))
