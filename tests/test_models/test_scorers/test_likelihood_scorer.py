# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores from the log-probabilities of an object's tokens."""
import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from mmdpad.models import LikelihoodScorer, VLMReasoningHead
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.scorers import GivenAnswer, likelihood_scorer
from mmdpad.prompts import format_detections
from mmdpad.registry import MODELS
from mmdpad.tasks import DetectionTask
from mmdpad.toy.policy_folder import make_policy_folder

TEXT = ('<think>so</think>\n<answer>[{"bbox_2d": [1, 2, 3, 4], "label": "杯"}, '
        '{"label": "cup", "bbox_2d": [5, 6, 7, 8], "description": "x"}]</answer>')
OBJECTS = DetectionTask().parse(TEXT).objects


class FakePolicy:
    """Writes each byte as a token; a byte's log-probability is -(its number + 1) / 100."""

    pad_token, vision_token_ids, device = 999, [], 'cpu'

    def __init__(self):
        self.encoder = SimpleNamespace(responses=self)

    def encode_again(self, text, forbidden):
        return list(text.encode())

    def locate(self, row):
        text = bytes(row).decode()
        ends = [len(bytes(row[:n + 1]).decode(errors='ignore')) for n in range(len(row))]
        starts = [0, *ends][:len(row)]
        return text, [(start, max(end, start + 1))
                      for start, end in zip(starts, ends, strict=True)]

    def log_probs(self, prompts, ids, mask, temperature):
        assert len(prompts) == len(ids) and temperature == 1.0
        logp = -(torch.arange(ids.shape[1]) + 1.0).expand(ids.shape) / 100
        return logp.where(mask, 0), None


def given(text=TEXT, objects=OBJECTS, ids=None, prompt='p'):
    return GivenAnswer(torch.zeros(3, 4, 4), objects, text, ids, prompt, DetectionTask().locate)


def span(part):
    """The numbers of the tokens of a piece of the text, from 1 on."""
    start = len(TEXT[:TEXT.index(part)].encode())
    return range(start + 1, start + len(part.encode()) + 1)


@pytest.mark.parametrize('of, parts', dict(
    label=['"杯"', '"cup"'], box=['[1, 2, 3, 4]', '[5, 6, 7, 8]'],
    object=['{"bbox_2d": [1, 2, 3, 4], "label": "杯"}',
            '{"label": "cup", "bbox_2d": [5, 6, 7, 8], "description": "x"}']).items())
@pytest.mark.parametrize('reduce', ['mean', 'sum', 'min'])
def test_by_hand(of, parts, reduce):
    found, = LikelihoodScorer(of, reduce)([given()], FakePolicy())
    for number, part in enumerate(parts):
        tokens = [-n / 100 for n in span(part)]
        value = dict(mean=sum(tokens) / len(tokens), sum=sum(tokens), min=min(tokens))[reduce]
        assert found.features[f'logp_{of}'][number] == pytest.approx(value)
        assert found.scores[number] == found.features['score'][number] == pytest.approx(
            math.exp(value))
    assert set(found.features) == {'logp_label', 'logp_box', 'logp_object', 'score'}


def test_a_token_across_the_border_counts():
    class TwoBytes(FakePolicy):
        """Tokens of two bytes."""

        def encode_again(self, text, forbidden):
            return list(range((len(text) + 1) // 2))

        def locate(self, row):
            return text, [(2 * n, 2 * n + 2) for n in row]

    text = '<answer>[{"bbox_2d":[1,2,3,4],"label":"cup"}]</answer>'
    start = text.index('"cup"')
    found, = LikelihoodScorer('label', 'sum')([given(text, OBJECTS[:1])], TwoBytes())
    touched = range(start // 2, (start + 4) // 2 + 1)
    assert found.features['logp_label'] == pytest.approx(-sum(n + 1 for n in touched) / 100)


def test_sampled_tokens_are_taken_as_they_are_and_several_answers_at_once():
    short = '<answer>[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]</answer>'
    answers = [given(short, OBJECTS[:1], torch.tensor(list(short.encode()))), given(),
               given('<answer>[]</answer>', ()), given('', ())]
    together = LikelihoodScorer()(answers, FakePolicy())
    with patch.object(likelihood_scorer, 'MAX_TOKENS', 200):  # in several passes
        apart = LikelihoodScorer()(answers, FakePolicy())
    assert [own.scores.tolist() for own in apart] == [own.scores.tolist() for own in together]
    for answer, found in zip(answers, together, strict=True):
        alone, = LikelihoodScorer()([answer], FakePolicy())
        assert alone.scores.tolist() == found.scores.tolist()
    assert LikelihoodScorer()([], FakePolicy()) == []


def test_scores_stay_above_zero():
    class Unsure(FakePolicy):
        def log_probs(self, prompts, ids, mask, temperature):
            return torch.full(ids.shape, -1e6), None

    found, = LikelihoodScorer(reduce='sum')([given()], Unsure())
    assert (found.scores > 0).all() and (found.features['score'] == 0).all()


def test_a_stored_text_that_loses_an_entry_has_unknown_features():
    """It spelled special tokens, and is not what was parsed any more."""
    found, = LikelihoodScorer()([given(TEXT, (*OBJECTS, OBJECTS[0]))], FakePolicy())
    assert all(math.isnan(value) for values in found.features.values() for value in values)
    assert (found.scores > 0).all() and (found.scores < 1e-300).all()


def test_nan_names_the_prompt():
    class Broken(FakePolicy):
        def log_probs(self, prompts, ids, mask, temperature):
            return torch.tensor([[0.0], [math.nan]]).expand(ids.shape), None

        def explain_non_finite(self, prompts, ids):
            return f'{prompts}: layer 3.'

    with pytest.raises(NonFiniteError, match=r"prompt 1 .* \['q'\]: layer 3") as error:
        LikelihoodScorer()([given(), given(prompt='q')], Broken())
    assert error.value.prompt == 1


@pytest.mark.parametrize('options, message', [
    (dict(of='boxes'), r"`of` should be one of \('label', 'box', 'object'\), but got 'boxes'"),
    (dict(reduce='max'), r"`reduce` should be one of \('mean', 'sum', 'min'\), but got 'max'"),
    (dict(calibration='no.json'), "`calibration` should be a file .* 'no.json' does not exist")])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='LikelihoodScorer', **options))


@pytest.mark.parametrize('padded', [False, True])
def test_equal_to_a_full_pass_in_float64(policy_config, lift, padded):
    """Of the toy policy: log-softmax of all logits over prompt and response, token by token."""
    head = VLMReasoningHead(**policy_config, dtype='float64').eval()
    lift(head.model)
    image = torch.randint(0, 255, (3, 112, 112), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    prompt, = head.encode_prompts([image], ['a 狗'])
    text = format_detections('it is é', [((1, 2, 30, 40), '狗', 'so'),
                                         ((5, 6, 70, 80), 'cup', None)])
    objects = DetectionTask().parse(text).objects
    codec = head.encoder.responses
    ids = codec.encode_again(text)
    answers = [given(text, objects, torch.tensor(ids), prompt)]
    if padded:
        longer = format_detections('it is é ' * 3, [((1, 2, 30, 40), '狗', 'so')])
        answers.append(given(longer, objects[:1], None, prompt))
    found = LikelihoodScorer('label', 'sum')(answers, head)[0]
    complete = torch.cat([prompt.input_ids, torch.tensor(ids)])
    with torch.no_grad():
        logits = head.model(input_ids=complete[None], pixel_values=prompt.pixel_values.double(),
                            image_grid_thw=prompt.grid.reshape(1, 3),
                            mm_token_type_ids=(complete == head.model.config.image_token_id)
                            .long()[None]).logits[0]
    logits[:, head.vision_token_ids] = -math.inf
    logp = logits[len(prompt.input_ids) - 1:-1].log_softmax(-1)[range(len(ids)), ids]
    for number, part in enumerate(['"狗"', '"cup"']):
        begin = text.index(part)
        touching = [n for n, (start, end) in enumerate(codec.locate(ids)[1])
                    if start < begin + len(part) and end > begin]
        assert found.features['logp_label'][number] == pytest.approx(
            float(logp[touching].sum()), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['qwen3_vl', 'glm4v', 'lfm2_vl', 'internvl'])
def test_other_families(family, tmp_path):
    head = VLMReasoningHead(make_policy_folder(tmp_path / 'p', family),
                            max_prompt_tokens=4096).eval()
    LikelihoodScorer().prepare(head)
    prompt, = head.encode_prompts([torch.zeros(3, 448, 448, dtype=torch.uint8)], ['cup'])
    answer = given(TEXT, OBJECTS, None, prompt)
    found, = LikelihoodScorer()([answer], head)
    assert ((found.scores > 0) & (found.scores <= 1)).all()
