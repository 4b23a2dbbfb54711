# Grounded question answering by Qwen2.5-VL-7B: an answer in words, boxes of the evidence and a
# caption of it. Trained on 3,000 questions of GQA, evaluated on its val.
#   python tools/train.py configs/dpad/qwen7b_gqa.py
#   python tools/test.py configs/dpad/qwen7b_gqa.py work_dirs/qwen7b_gqa/iter_187.pth
# Not a published recipe: DPAD's, with rewards for the answer and its evidence in place of those for
# one object. Needs data/gqa/ as described in configs/_base_/datasets/gqa.py. Not run with the
# published weights. docs/question_answering.md explains the parts.
_base_ = [
    '../_base_/models/dpad_qwen2_5_vl.py', '../_base_/datasets/gqa.py',
    '../_base_/schedules/grpo.py', '../_base_/default_runtime.py'
]

model = dict(
    decoder=None, tasks=dict(question_answering=dict(type='QuestionAnsweringTask', max_objects=20)))
train_cfg = dict(rewards=dict(
    _delete_=True,
    thinking_format=dict(type='ThinkingFormatReward'),
    answer_format=dict(type='SegmentationFormatReward'),  # 1 for any answer that can be used
    answer=dict(type='AnswerReward', measure='exact', weight=2.0),
    evidence_iou=dict(type='EvidenceIoUReward')))
# Where the data know no evidence, the caption is compared with the region that the policy chose,
# and earns nothing if that covers more than half of the image.
custom_hooks = [
    dict(type='DiscriminativeRewardHook', discriminator=_base_.discriminator, form='binary',
         region='target_or_predicted', max_region=0.5)
]
default_hooks = dict(checkpoint=dict(save_best='vqa/accuracy'))
