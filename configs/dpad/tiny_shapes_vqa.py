# The toy version of grounded question answering: an answer in words, boxes of the evidence, and a
# caption, which the discriminative term compares with the evidence and the image.
#   python tools/dataset_converters/shapes_world.py data/shapes_world
#   python tools/train.py configs/dpad/tiny_shapes_vqa.py
#   python tools/test.py configs/dpad/tiny_shapes_vqa.py work_dirs/tiny_shapes_vqa/iter_50.pth
# docs/results_tasks.md has its results.
_base_ = './tiny_shapes_ovd.py'
# What people change most.
max_iters = 50
lr = 4e-4

model = dict(box_scorer=None, tasks=dict(_delete_=True, question_answering=dict(
    type='QuestionAnsweringTask', max_objects=10, template='answer "{question}"')))
# Where nothing is to be seen (a "no", a zero), the caption is compared with what the policy points
# at, if that is less than half of the image.
caption = dict(discriminator=_base_.discriminator, region='target_or_predicted',
               max_region=0.5)
custom_hooks = [dict(type='DiscriminativeRewardHook', form='binary', **caption)]
rewards = dict(
    thinking_format=dict(type='ThinkingFormatReward'),
    answer_format=dict(type='SegmentationFormatReward'),  # 1 for any answer that can be used
    answer=dict(type='AnswerReward', measure='exact'),
    evidence_iou=dict(type='EvidenceIoUReward'))
train_cfg = dict(max_iters=max_iters, rewards=dict(_delete_=True, **rewards))

answered = dict(
    _delete_=True, type='AnswerLinesDataset', task='question_answering',
    data_root=_base_.data_root, data_prefix=dict(img_path=''), pipeline=_base_.pipeline)
train_dataloader = dict(dataset=dict(
    answered, ann_file='annotations/questions_train.jsonl'))
test_dataloader = dict(dataset=dict(
    answered, ann_file='annotations/questions_test.jsonl', test_mode=True))

test_evaluator = [
    dict(type='QuestionAnsweringMetric', measure='exact'),
    dict(type='RewardMetric', rewards=dict(
        **rewards, discriminative=dict(type='DiscriminativeReward', **caption)))
]
optim_wrapper = dict(optimizer=dict(lr=lr))
