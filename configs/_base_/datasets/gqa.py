# GQA as questions with answers in words; the boxes of its scene graphs are the evidence. Files are
# as published: data/gqa/train_balanced_questions.json, val_balanced_questions.json,
# train_sceneGraphs.json, val_sceneGraphs.json and images/*.jpg. Training takes 3,000 questions,
# validation 500; the test takes all questions of val, since there are no scene graphs of testdev
# (with its questions and scene_graph_file=None, there is accuracy alone).
#
# The other data sets of questions (VQADataset, TextVQADataset, Visual7WDataset, VisualCoTDataset,
# AnswerLinesDataset) take its place with the same pipeline, see docs/question_answering.md.
train_pipeline = [
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),  # (width, height) that the policy sees
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs')
]
test_pipeline = train_pipeline
val = dict(
    type='GQADataset', data_root='data/gqa/', ann_file='val_balanced_questions.json',
    scene_graph_file='val_sceneGraphs.json', data_prefix=dict(img_path='images/'),
    test_mode=True, pipeline=test_pipeline)

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='GQADataset',
        data_root='data/gqa/',
        ann_file='train_balanced_questions.json',
        scene_graph_file='train_sceneGraphs.json',
        data_prefix=dict(img_path='images/'),
        num_samples=3000,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='LengthSortedSampler'),
    dataset=dict(val, num_samples=500))
test_dataloader = dict(val_dataloader, dataset=val)

val_evaluator = [dict(type='QuestionAnsweringMetric', measure='exact')]
test_evaluator = val_evaluator
val_cfg = dict(type='ReasonSegValLoop')
test_cfg = dict(type='ReasonSegTestLoop')
