# The study's main arm: DPAD in miniature, on scenes in which telling the target apart is the task.
# All other arms change this one. tools/analysis_tools/run_study.py runs them.
_base_ = '../dpad/tiny_shapes.py'
# What the study does with the config: its title, the number of seeds, and what it is compared with.
arm = dict(group='main', title='+ discriminative reward (DPAD)', seeds=5,
           compare_with=['geometric', 'caption'])

# In a checkout; the wheel leaves them out.
start = '{{ fileDirname }}/weights/study_tied'
data_root = 'data/study/'
test_sets = ('few', 'many', 'look_alikes', 'shifted')

model = dict(policy=dict(pretrained=start))
train_cfg = dict(max_iters=300)
val_dataloader = val_cfg = val_evaluator = None
train_dataloader = dict(dataset=dict(data_root=data_root + 'study'))
default_hooks = dict(checkpoint=dict(interval=50, save_best=None),
                     answer_pictures=dict(number=0))  # the study's report draws its own

test_dataloader = dict(dataset=dict(
    _delete_=True,
    type='ConcatDataset',
    datasets=[
        dict(type='ReasonSegDataset', data_root=data_root + name, split='test',
             pipeline={{_base_.pipeline}}, test_mode=True) for name in test_sets
    ]))
# How well captions discriminate, and how often they fit their object better than any other one.
test_evaluator = [
    dict(type='ReasonSegMetric', ignore_regions='target', save_masks=True),
    dict(type='RewardMetric', rewards=dict(discriminative=dict(
        type='DiscriminativeReward', discriminator={{_base_.discriminator}}))),
    dict(type='RewardMetric', prefix='specific', rewards=dict(specific=dict(
        type='DiscriminativeReward', discriminator={{_base_.discriminator}},
        contrast='others')))
]
