# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Readers of questions with answers in words, on files in the published formats."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmdpad.datasets import (
    AnswerLinesDataset,
    DatasetError,
    GQADataset,
    TextVQADataset,
    Visual7WDataset,
    VisualCoTDataset,
    VQADataset,
)
from mmdpad.registry import TASKS

DATA = Path(__file__).parents[1] / 'data/vqa'
BOX = (4.0, 2.0, 10.0, 8.0)
TEN = ('red', ) * 6 + ('dark red', ) * 3 + ('crimson', )
COMMON = dict(data_root=str(DATA), data_prefix=dict(img_path='images'), serialize_data=False)
GQA = dict(COMMON, ann_file='val_balanced_questions.json', scene_graph_file='val_sceneGraphs.json')
VQA = dict(COMMON, ann_file='v2_mscoco_val2014_annotations.json',
           question_file='v2_OpenEnded_mscoco_val2014_questions.json')


def problems_of(build) -> dict[str, list[str]]:
    """The messages by kind."""
    with pytest.raises(DatasetError) as caught:
        build()
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        found.setdefault(problem.kind, []).append(str(problem))
    return found


def keys(item, *names):
    return [item.get(name) for name in names]


def test_vqa_has_ten_answers_and_types():
    first, second = VQADataset(**VQA)
    assert first['img_path'] == str(DATA / 'images/COCO_val2014_000000000001.jpg')
    assert keys(first, 'img_id', 'question', 'answers', 'answer', 'evidence', 'question_type') == [
        1000, 'What color is the square?', TEN, 'red', (), 'other']
    assert keys(second, 'answers', 'num_targets', 'instances', 'choices') == [
        ('1', ) * 10, 0, [], None]


def test_gqa_takes_boxes_of_the_answer_or_else_of_the_question():
    circle = (12.0, 1.0, 17.0, 6.0)
    first, second = GQADataset(**GQA)
    assert keys(first, 'img_id', 'answers', 'evidence', 'question_type', 'num_targets') == [
        '05515938', ('square', ), (BOX, ), 'rel', 1]
    assert first['instances'] == [dict(bbox=list(BOX), bbox_label=0, ignore_flag=0)]
    assert second['evidence'] == (circle, )
    assert [item['evidence'] for item in GQADataset(**GQA, evidence='answer')] == [(BOX, ), ()]
    assert [item['evidence'] for item in GQADataset(**GQA, evidence='question')] == [(circle, )] * 2
    assert [item['evidence'] for item in GQADataset(**dict(GQA, scene_graph_file=None))] == [()] * 2
    with pytest.raises(ValueError, match="one of .* but got 'all'"):
        GQADataset(**GQA, evidence='all')


def test_text_vqa_and_visual_cot():
    item, = TextVQADataset(**COMMON, ann_file='TextVQA_0.5.1_val.json')
    assert keys(item, 'img_id', 'answers', 'evidence') == [34602, TEN, ()]
    cot = dict(COMMON, ann_file='textvqa_cot_train.jsonl')
    item, = VisualCoTDataset(**cot, split='train')
    assert keys(item, 'img_id', 'answers', 'evidence', 'question_type') == [
        0, TEN, (BOX, ), 'textvqa']
    assert 'empty split' in problems_of(lambda: VisualCoTDataset(**cot, split='val'))


def test_visual7w_telling_lists_its_choices_in_a_fixed_order():
    item, = Visual7WDataset(**COMMON, ann_file='dataset_v7w_telling.json', split='val')
    again, = Visual7WDataset(**COMMON, ann_file='dataset_v7w_telling.json', split='val')
    assert item == again and sorted(item['choices']) == [
        'A cup.', 'A dog.', 'The sky.', 'The square.']
    listed = '; '.join(f'({letter}) {text}'
                       for letter, text in zip('ABCD', item['choices'], strict=True))
    assert item['question'] == f'What is red? Choose one of these: {listed}'
    right = 'ABCD'[item['choices'].index('The square.')]
    assert keys(item, 'answers', 'question_type') == [(f'({right}) The square.', ), 'what']


def test_visual7w_pointing_has_the_box_of_the_answer_as_evidence():
    item, = Visual7WDataset(**COMMON, ann_file='dataset_v7w_pointing.json', split='val')
    assert keys(item, 'question', 'answers', 'evidence', 'choices') == [
        'Which shape is red?', ('square', ), (BOX, ), None]
    assert item['other_boxes'] == ((0, 2, 6, 8), (12, 2, 18, 8), (14, 2, 20, 8))


def test_the_pipeline_packs_answers_and_evidence():
    pipeline = [dict(type='LoadReasoningImage'), dict(type='ModelImageResize', size=(40, 40)),
                dict(type='TargetsFromBoxes'), dict(type='PackReasoningInputs')]
    first, second = (GQADataset(**dict(GQA, evidence='answer'), pipeline=pipeline)[number]
                     ['data_samples'] for number in (0, 1))
    assert first.answers == ('square', ) and first.evidence == (BOX, )
    # 20 x 10 pixels become 40 x 40; the last covered pixels of the box are 9 and 7.
    torch.testing.assert_close(first.model_targets.bboxes, torch.tensor([[8., 8., 18., 28.]]))
    assert second.model_targets.bboxes.shape == (0, 4) and second.evidence == ()


@pytest.fixture
def lines(tmp_path):
    """Build the data set of some JSON lines about an image of 20 x 10 pixels."""
    Image.new('RGB', (20, 10)).save(tmp_path / 'a.png')

    def build(*changes: dict, **kwargs):
        rows = [dict(dict(id=number, image='a.png', texts=['what?'], answers=['red']), **change)
                for number, change in enumerate(changes)]
        (tmp_path / 'qa.jsonl').write_text('\n'.join(map(json.dumps, rows)))
        return AnswerLinesDataset(str(tmp_path / 'qa.jsonl'), serialize_data=False, **kwargs)

    return build


def test_json_lines(lines):
    plain, full = lines({}, dict(
        answers=['2', 'two', '2'], evidence=[[0, 0, 5, 5], [3, 3, 30, 9]], choices=['1', '2'],
        question_type='count', task='vqa', think='so', caption='two dogs',
        other_boxes=[[1, 1, 2, 2]], height=10, width=20))
    assert keys(plain, 'evidence', 'num_targets', 'choices', 'task') == [(), 0, None, None]
    assert keys(full, 'answer', 'num_targets', 'question_type', 'task', 'think', 'caption') == [
        '2', 2, 'count', 'vqa', 'so', 'two dogs']
    twice, = lines(dict(answers=['B'], choices=['blue', 'red'],
                        evidence=[[0, 0, 5, 5], [0, 0, 5, 5.0]]))
    assert keys(twice, 'evidence', 'num_targets') == [((0, 0, 5, 5), ), 1]
    assert full['question'] == 'what? Choose one of these: (A) 1; (B) 2'
    assert len(lines(*[{}] * 9, num_samples=4)) == 4


def test_every_problem_of_json_lines_is_listed(lines):
    found = problems_of(lambda: lines(
        dict(answers=[]), dict(answers=[' ']), dict(answers=[3]), dict(answers='red'),
        dict(evidence=[[5, 5, 5, 9]]), dict(evidence=[[1, 2, 3]]), dict(evidence=[[20, 0, 30, 5]]),
        dict(choices=['red']), dict(choices=['red', ' Red']), dict(choices=['blue', 'green']),
        dict(height=11, width=20), dict(texts=[' . ']), dict(image='b.png'), dict(id=0),
        dict(question_type=3), dict(caption='<answer>'), dict(other_boxes=[[20, 0, 30, 5]]),
        dict(answers=['cup'], choices=['a cup', 'the cup']),
        dict(answers=['(A) B'], choices=['B', 'C']), dict(answers=['B'], choices=['B', 'C'])))
    count = {kind: len(messages) for kind, messages in found.items()}
    assert count == {
        'wrong annotation': 10, 'box outside': 2, 'answer not among choices': 2,
        'ambiguous answer': 1, 'wrong image size': 1, 'empty question': 1, 'missing image': 1,
        'duplicate id': 1}
    assert "should contain the answer 'red'" in found['answer not among choices'][0]


def test_the_target_of_supervised_training_has_the_most_frequent_answer(lines):
    task = dict(type='QuestionAnsweringTask')
    steps = [dict(type='LoadReasoningImage'), dict(type='ModelImageResize', size=(40, 40)),
             dict(type='TargetsFromBoxes'), dict(type='ComposeResponse', tasks=dict(qa=task))]
    full = dict(answers=['one', 'two', 'two'], evidence=[[0, 0, 5, 5]], think='so', caption='x')
    first, = lines(full, pipeline=steps)
    found = TASKS.build(task).parse(first['response'])
    assert (found.answer, found.think, found.caption, found.box) == ('two', 'so', 'x',
                                                                     (0, 0, 8, 16))
    del full['think']
    with pytest.raises(DatasetError, match='lacks `think`'):
        lines(full, pipeline=steps)[0]


@pytest.fixture
def copied(tmp_path):
    """Change the content of a file in a copy of the data."""
    def change(kwargs: dict, name: str, edit) -> dict:
        folder = tmp_path / 'copy'
        shutil.copytree(DATA, folder, dirs_exist_ok=True)
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))
        return dict(kwargs, data_root=str(folder))
    return change


@pytest.mark.parametrize('edit, kind', [
    (lambda c: c['1'].update(width=21), 'wrong image size'),
    (lambda c: c.pop('1'), 'no scene graph'),
    (lambda c: c['1'].update(objects=[]), 'unknown object'),
    (lambda c: c['1']['objects'].pop('100'), 'unknown object')])
def test_problems_of_scene_graphs(copied, edit, kind):
    kwargs = copied(GQA, 'val_sceneGraphs.json', edit)
    assert set(problems_of(lambda: GQADataset(**kwargs))) == {kind}


def test_an_object_of_a_scene_graph_without_area_is_no_evidence(copied):
    kwargs = copied(GQA, 'val_sceneGraphs.json', lambda c: c['1']['objects']['100'].update(w=0))
    assert [len(item['evidence']) for item in GQADataset(**kwargs)] == [0, 1]


@pytest.mark.parametrize('build, kwargs, name, edit, kind', [
    (GQADataset, GQA, 'val_balanced_questions.json', lambda c: c['05515938'].pop('answer'),
     'missing key'),
    (VQADataset, VQA, VQA['ann_file'], lambda c: c['annotations'].pop(), 'no annotation'),
    (VQADataset, VQA, VQA['ann_file'], lambda c: c['annotations'].append(c['annotations'][0]),
     'duplicate id'),
    (VQADataset, VQA, VQA['ann_file'], lambda c: c['annotations'][0].update(answers=['red']),
     'wrong annotation'),
    (VQADataset, VQA, VQA['question_file'], lambda c: c['questions'].append(c['questions'][0]),
     'duplicate id'),
    (VQADataset, VQA, VQA['question_file'], lambda c: c['questions'][0].update(image_id='x'),
     'wrong image name'),
    (VQADataset, VQA, VQA['question_file'], lambda c: c.pop('questions'), 'wrong annotation'),
    (VQADataset, VQA, VQA['question_file'],
     lambda c: c['questions'][0].update(question_id=[]), 'wrong annotation'),
    (GQADataset, GQA, 'val_balanced_questions.json',
     lambda c: c['05515938'].update(annotations='x'), 'wrong annotation'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_pointing.json', split='val'),
     'dataset_v7w_pointing.json', lambda c: c.update(boxes=3), 'wrong annotation'),
    (TextVQADataset, dict(COMMON, ann_file='TextVQA_0.5.1_val.json'), 'TextVQA_0.5.1_val.json',
     lambda c: c['data'][0].pop('answers'), 'missing key'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_pointing.json', split='val'),
     'dataset_v7w_pointing.json', lambda c: c['boxes'].pop(), 'unknown box'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_telling.json', split='val'),
     'dataset_v7w_telling.json', lambda c: c['images'][0].pop('filename'), 'missing key'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_telling.json', split='val'),
     'dataset_v7w_telling.json', lambda c: c['images'][0]['qa_pairs'][0].pop('answer'),
     'missing key'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_telling.json', split='val'),
     'dataset_v7w_telling.json', lambda c: c['images'][0]['qa_pairs'][0].update(qa_id='x'),
     'wrong annotation'),
    (Visual7WDataset, dict(COMMON, ann_file='dataset_v7w_pointing.json', split='val'),
     'dataset_v7w_pointing.json', lambda c: c['boxes'][1].update(x=20), 'box outside')])
def test_problems_of_published_formats(copied, build, kwargs, name, edit, kind):
    changed = copied(kwargs, name, edit)
    assert set(problems_of(lambda: build(**changed))) == {kind}
