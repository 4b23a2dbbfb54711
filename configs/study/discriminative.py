# The study's main arm: toy DPAD on scenes where the challenge is telling the target from others.
# All other arms modify this one. tools/analysis_tools/run_study.py runs them.
_base_ = '../dpad/tiny_shapes.py'
# For the study: the title, the number of seeds, and the arms to compare with.
arm = dict(group='main', title='+ discriminative reward (DPAD)', seeds=5,
           compare_with=['geometric', 'caption'])

# Only in a checkout; the wheel does not include the weights.
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
# How well captions discriminate, and how often they match their object better than any other.
test_evaluator = [
    dict(type='ReasonSegMetric', ignore_regions='target', save_masks=True),
    dict(type='RewardMetric', rewards=dict(discriminative=dict(
        type='DiscriminativeReward', discriminator={{_base_.discriminator}}))),
    dict(type='RewardMetric', prefix='specific', rewards=dict(specific=dict(
        type='DiscriminativeReward', discriminator={{_base_.discriminator}},
        contrast='others')))
]
