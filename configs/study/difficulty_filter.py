# Questions that the start policy answers right always or never are left out.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, questions of the right difficulty', seeds=3,
           compare_with=['caption', 'discriminative'], pass_rates=True)

train_dataloader = dict(dataset=dict(
    difficulty=dict(file='data/study/pass_rates.jsonl', min=0.1, max=0.9)))
