# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the converter writes for detection and question answering, and what their start policy
learns from."""
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmdpad.datasets import AnswerLinesDataset
from mmdpad.prompts import parse_detections, parse_question_answer
from mmdpad.registry import DATASETS
from mmdpad.structures import ReasoningOutput
from mmdpad.toy.shapes_tasks import list_answered_questions, outer_box
from mmdpad.toy.shapes_world import GENERIC_CAPTIONS, SHAPES, make_scene

TOOLS = Path(__file__).parents[2] / 'tools/toy'
MODULES = ('common', 'policy_data', 'policy_files', 'tasks_data')


def test_coco_file_has_every_object_with_its_box_and_shape(shapes_data):
    source = DATASETS.build(dict(
        type='CocoDataset', data_root=str(shapes_data), data_prefix=dict(img=''), pipeline=[],
        ann_file='annotations/instances_test.json', metainfo=dict(classes=SHAPES), test_mode=True))
    assert len(source) == 6
    for number in range(6):
        info, scene = source.get_data_info(number), make_scene('test', number)
        assert Path(info['img_path']) == shapes_data / f'test/test_{number:05d}.jpg'
        assert (info['height'], info['width']) == scene.image.shape[:2]
        assert [item['bbox_label'] for item in info['instances']] == [
            SHAPES.index(item.shape) for item in scene.objects]
        assert np.allclose([item['bbox'] for item in info['instances']],
                           [outer_box(item) for item in scene.objects])
        for instance in info['instances']:
            outline = np.reshape(instance['mask'][0], (-1, 2))
            assert np.allclose(np.ravel([outline.min(0), outline.max(0)]), instance['bbox'])


def test_questions_are_read_with_the_evidence_that_shows_the_answer(shapes_data):
    items = AnswerLinesDataset('annotations/questions_test.jsonl', str(shapes_data),
                               dict(img_path=''), test_mode=True)
    assert len(items) == 12
    for number in range(12):
        item, scene = items.get_data_info(number), make_scene('test', number // 2)
        assert Path(item['img_path']) == shapes_data / f'test/test_{number // 2:05d}.jpg'
        question, = (q for q in list_answered_questions(scene.objects, *scene.image.shape[1::-1])
                     if q.text == item['question'])
        assert (item['answer'], item['question_type']) == (question.answer, question.kind)
        boxes = [outer_box(one) for one in scene.objects]
        assert list(item['evidence']) == [boxes[i] for i in question.evidence]
        assert sorted((*item['evidence'], *item['other_boxes'])) == sorted(boxes)


def test_each_split_has_its_own_annotations(shapes_data):
    counts = {path.name: len(json.loads(path.read_text())['images'])
              for path in (shapes_data / 'annotations').glob('instances_*.json')}
    assert counts == {'instances_train.json': 8, 'instances_val.json': 4, 'instances_test.json': 6}


@pytest.fixture
def answers(monkeypatch):
    """Task, prompt and parsed answer of 400 questions that the start policy learns from."""
    others = {name: sys.modules.pop(name, None) for name in MODULES}
    monkeypatch.syspath_prepend(str(TOOLS))
    from policy_files import make_processor
    from tasks_data import TaskRowMaker
    processor = make_processor(tasks=True)
    maker = TaskRowMaker(processor, 0, ('detect', 'answer'), (4, 4))
    found = []
    for _ in range(200):
        row = maker()
        for tokens, asked in zip(row.tokens, row.asked, strict=True):
            assert len(tokens) - asked < 160
            prompt, text = (processor.tokenizer.decode(part, skip_special_tokens=True)
                            for part in (tokens[:asked], tokens[asked:]))
            task = prompt.split()[0]
            read = parse_detections if task == 'detect' else parse_question_answer
            found.append((task, prompt.split('"')[1], read(text)))
    yield found
    for name, module in others.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_all_answers_can_be_read_and_leave_room_in_every_respect(answers):
    assert all(isinstance(answer, ReasoningOutput) for _, _, answer in answers)
    detections = [answer for task, _, answer in answers if task == 'detect']
    assert {question for task, question, _ in answers if task == 'detect'} == {', '.join(SHAPES)}
    objects = [item for answer in detections for item in answer.objects]
    assert {item.label for item in objects} == {*SHAPES}
    generic = np.mean([item.description in GENERIC_CAPTIONS for item in objects])
    assert 0.45 < generic < 0.63  # CAPTION_SHARES: 0.54
    own_shape = np.mean([item.label in item.description for item in objects])
    assert 0.25 < own_shape < 0.45  # 0.28, and others of the same shape
    named = [Counter(answer.think.removeprefix('there is ').rstrip('.').split(', '))
             for answer in detections]
    repeated = sum(len(answer.objects) - count.total() for answer, count in
                   zip(detections, named, strict=True) if answer.objects)
    assert 0.06 < repeated / len(objects) < 0.16  # REPEATED: 0.12 of the objects


def test_mistakes_of_answers_in_words_do_not_depend_on_each_other(answers):
    told = [(answer.answer in answer.think, answer.caption in GENERIC_CAPTIONS)
            for task, question, answer in answers
            if task == 'answer' and question.startswith(('what color', 'what shape'))]
    right = [generic for is_right, generic in told if is_right]
    wrong = [generic for is_right, generic in told if not is_right]
    assert 0.75 < len(right) / len(told) < 0.97  # WRONG_ANSWER: 0.15, some of them right by chance
    assert len(wrong) >= 5 and abs(np.mean(right) - 0.54) < 0.15
