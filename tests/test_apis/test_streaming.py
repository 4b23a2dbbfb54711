# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import threading

import pytest
import torch

from mmdpad.apis import Answer, ReasonSegInferencer
from mmdpad.apis.streaming import Stopped, stream
from mmdpad.models import HFRollout
from mmdpad.registry import ROLLOUTS

QUESTION = 'the red circle'


@pytest.fixture(scope='module')
def infer():
    return ReasonSegInferencer('tiny_shapes', device='cpu')




@pytest.fixture(scope='module')
def image(shapes_data):
    return str(sorted((shapes_data / 'test').glob('*.jpg'))[0])


@pytest.mark.parametrize('engine', ['SharedPrefixRollout', 'HFRollout'])
def test_the_text_grows_into_the_answer(infer, image, engine, monkeypatch):
    expected, = infer(image, QUESTION)
    monkeypatch.setattr(infer.model, 'rollout_engine', ROLLOUTS.build(dict(type=engine)))
    if engine == 'HFRollout':
        use = infer.model.policy.model.set_attn_implementation
        use(dict(text_config='sdpa', vision_config='sdpa'))
    *texts, answer = infer.stream(image, QUESTION)
    if engine == 'HFRollout':
        assert isinstance(infer.model.rollout_engine, HFRollout)
        use(dict(text_config='shared_prefix', vision_config='sdpa'))
    assert texts and all(b.startswith(a) and len(b) > len(a)
                         for a, b in zip(texts, texts[1:], strict=False))
    assert answer['response'].startswith(texts[-1]) and len(texts[-1]) > 20
    for name in ('response', 'box', 'points', 'caption', 'reasoning', 'failure'):
        assert answer[name] == expected[name]
    assert (answer['mask'] == expected['mask']).all()


def test_a_closed_stream_ends_the_writing(infer, image):
    pieces = infer.stream(image, QUESTION)
    assert isinstance(next(pieces), str)
    pieces.close()
    assert infer.model.rollout_engine.streamer is None
    assert not [t for t in threading.enumerate() if t.daemon and 'work' in t.name]
    again, = infer(image, QUESTION)
    assert again['failure'] is None or again['response']


def test_streams_take_turns(infer, image):
    questions = [QUESTION, 'the object nearest to the right']
    expected = [infer(image, question)[0]['response'] for question in questions]
    found = {}

    def ask(question):
        *texts, answer = infer.stream(image, question)
        assert all(answer['response'].startswith(text) for text in texts)
        found[question] = answer['response']

    threads = [threading.Thread(target=ask, args=(question, )) for question in questions * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[question] for question in questions] == expected


def test_what_is_wrong_is_reported_before_anything_runs(infer, image):
    with pytest.raises(ValueError, match="number 0 is '  '"):
        infer.stream(image, '  ')
    with pytest.raises(ValueError, match='one image and one question, but got 2 pairs'):
        infer.stream([image, image], QUESTION)


def decode(ids):
    return [bytes(row).decode(errors='replace') for row in ids.tolist()]


def test_half_a_letter_is_held_back():
    steps = [threading.Event() for _ in range(4)]

    def answer(streamer):
        for token, step in zip('aé'.encode(), steps[1:], strict=True):
            streamer(torch.tensor([token]))
            step.wait(5)
        return Answer(None, response='aé')

    pieces = stream(answer, decode)
    assert next(pieces) == 'a'
    for step in steps:
        step.set()
    rest = list(pieces)
    assert rest[-1] == dict(response='aé') and rest[:-1] in ([], ['aé'])


def test_an_error_of_the_model_is_the_callers():
    def answer(streamer):
        streamer(torch.tensor([97]))
        raise RuntimeError('out of memory')

    with pytest.raises(RuntimeError, match='out of memory'):
        list(stream(answer, decode))


def test_stopping_reaches_the_sampling():
    ended = []

    def answer(streamer):
        try:
            while True:
                streamer(torch.tensor([97]))
        except Stopped:
            ended.append(True)
            raise

    pieces = stream(answer, decode)
    next(pieces)
    pieces.close()
    assert ended == [True]
