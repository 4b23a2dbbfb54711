# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Inference with a model that looks closer before it answers."""
import json
from pathlib import Path

import pytest
from scripted_rollout import Scripted

from mmdpad.apis import Answer, ReasonSegInferencer
from mmdpad.cli.infer import format_answer
from mmdpad.prompts import format_response

CALL = '<think>small</think><zoom>[0, 0, 56, 56]</zoom>'
ANSWER = format_response('so', (0, 0, 56, 56), ((20, 20), (30, 30)), 'a cup')


@pytest.fixture(scope='module')
def infer():
    limits = dict(min_side=28, size=(112, 112))
    return ReasonSegInferencer('tiny_shapes', device='cpu', cfg_options={
        'model.conversation': dict(max_turns=2, max_tokens=500, limits=limits),
        'model.test_cfg.max_new_tokens': 150})


@pytest.fixture
def image(shapes_data):
    return str(sorted((shapes_data / 'test').glob('*.jpg'))[0])


def test_an_answer_has_all_turns(infer, image, tmp_path):
    infer.model.conversations.engine = Scripted([CALL], [ANSWER])
    (answer, ) = infer(image, 'the cup', out_dir=str(tmp_path))
    height, width = answer['mask'].shape
    assert answer['box'] == pytest.approx([0, 0, width / 4, height / 4])
    assert answer['failure'] is None and answer['reasoning'] == 'so'
    assert answer['response'] == f'{CALL}\n\n{ANSWER}'
    told = dict(turns=[CALL, ANSWER], crops=[[0, 0, width // 2, height // 2]], bad_calls=[],
                ended_by='answer', masks=0)
    assert answer['conversation'] == told
    assert json.loads(Path(tmp_path, 'results.jsonl').read_text())['conversation'] == told
    assert 'a cup' in format_answer(answer)


def test_a_stream_yields_the_answer_only(infer, image):
    infer.model.conversations.engine = Scripted([CALL], [CALL])
    (answer, ) = infer.stream(image, 'the cup')
    assert isinstance(answer, Answer) and answer['failure'].startswith('no_answer')
    assert answer['conversation']['ended_by'] == 'turns'


def test_several_samples_are_refused(infer, image):
    with pytest.raises(ValueError, match='`samples` should not be set with `model.conversation`'):
        infer(image, 'the cup', samples=2, select='consensus')
