# Questions whose last groups had no signal are asked less often.
_base_ = './discriminative.py'
arm = dict(group='other', title='+ discriminative, selective questions', seeds=3,
           compare_with=['caption', 'discriminative'])

train_dataloader = dict(sampler=dict(
    _delete_=True, type='SelectiveSampler', explore=0.5, delay=48))
