# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample

from mmdpad.models.rollouts import Responses
from mmdpad.models.segmentors import answering_ahead
from mmdpad.models.segmentors.answering_ahead import answer_ahead, select_samples


@pytest.fixture
def clock(monkeypatch):
    """Its time passes only where a test says so."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(answering_ahead.time, 'perf_counter', lambda: clock.now)
    return clock


def sample_of(question, **metainfo):
    return DetDataSample(metainfo=dict(question=question, **metainfo))


def batch_of(*samples):
    return dict(inputs=dict(model_image=[sample.question for sample in samples]),
                data_samples=list(samples))


def segmentor(clock, numbers):
    """Encodes a question for a second, and answers two batches together in 10 seconds for each
    question."""
    def stream(policy, batches, **test_cfg):
        taken = list(batches)
        for prompts, some in taken:
            numbers.append(list(some))
            clock.now += 10 * len(prompts)
            ids = torch.tensor([ord(prompt) for prompt in prompts], dtype=torch.long)[:, None]
            yield Responses(ids, ids.bool(), torch.zeros(len(prompts), dtype=torch.bool))

    def encode(inputs, samples):
        assert inputs['model_image'] == [sample.question for sample in samples]
        clock.now += len(samples)
        return [sample.question for sample in samples]

    return SimpleNamespace(
        policy=SimpleNamespace(decode=lambda ids: [chr(row[0]) for row in ids], pad_token=0),
        rollout_engine=SimpleNamespace(stream=stream), encode_prompts=encode,
        test_cfg=dict(temperature=0.0), conversations=None,
        next_responses=lambda stream: next(stream, None))


def test_seconds_are_those_of_answering(clock):
    """Not those of whoever makes the batches, or takes them."""
    def batches():
        for some in (first, second):
            clock.now += 1000
            yield some

    first, second = batch_of(sample_of('a'), sample_of('b')), batch_of(sample_of('c'))
    found = []
    for batch in answer_ahead(segmentor(clock, []), batches()):
        clock.now += 500
        found += [(text, cut, seconds) for text, cut, _, seconds in (
            sample.sampled_response for sample in batch['data_samples'])]
    # 3 seconds to encode all and 20 for two, then 10.
    assert found == [('a', False, 11.5), ('b', False, 11.5), ('c', False, 10.0)]


def test_samples_with_responses_are_not_asked(clock):
    numbers = []
    known = sample_of('b', cached_response=('known', False))
    batches = [batch_of(sample_of('a', sample_idx=5), known), batch_of(known), batch_of(
        sample_of('c'))]
    answered = list(answer_ahead(segmentor(clock, numbers), batches))
    assert answered == batches and numbers == [[5], [], [0]]
    assert 'sampled_response' not in known
    assert batches[2]['data_samples'][0].sampled_response[0] == 'c'


def test_samples_of_no_data_set_have_the_number_of_one_that_is_asked_alone():
    samples = [sample_of('a', sample_idx=3), sample_of('b'), sample_of('c', sample_idx=1)]
    inputs, chosen, numbers = select_samples(dict(image=[10, 11, 12]), samples, [2, 1])
    assert inputs == dict(image=[12, 11]) and chosen == [samples[2], samples[1]]
    assert numbers == [1, 0]
