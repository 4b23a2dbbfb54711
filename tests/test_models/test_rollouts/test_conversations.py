# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from scripted_rollout import Scripted

from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.models import HFRollout, SharedPrefixRollout
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import conversations
from mmdpad.models.rollouts.conversations import ConversationSampler
from mmdpad.prompts.zoom import BadCall, Zoom

LIMITS = CropLimits(min_side=28, size=(112, 112))
SHAPE = (112, 112)
ANSWER = '<think>t</think><answer>{}</answer>'
QUARTER = '<think>t</think><zoom>[0, 0, 56, 56]</zoom>'


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, 224, 448), generator=generator, dtype=torch.uint8)
            for _ in range(2)]


def hold(head, images, engine, max_new_tokens=400, **arguments):
    prompts = head.encode_prompts([torch.full((3, *SHAPE), 90, dtype=torch.uint8)] * len(images),
                                  ['the star'] * len(images))
    sampler = ConversationSampler(engine, head, **dict(dict(limits=LIMITS), **arguments))
    group_size = len(engine.turns[0]) // len(images)
    return prompts, *sampler(prompts, images, [SHAPE] * len(images), group_size=group_size,
                             max_new_tokens=max_new_tokens, seed=(3, 4), temperature=0.7)


def test_a_call_shows_a_part_and_an_answer_ends(head, images):
    engine = Scripted([QUARTER, ANSWER, ANSWER, QUARTER], [ANSWER, QUARTER], [ANSWER])
    prompts, responses, talks = hold(head, images, engine, max_turns=3)
    assert [len(talk.texts) for talk in talks] == [2, 1, 1, 3]
    assert [talk.ended_by for talk in talks] == ['answer'] * 4
    # half of 448 x 224 pixels each way, and then half of that
    assert talks[0].crops[-1] == Crop((0, 0, 224, 112), SHAPE)
    assert talks[1].crops[-1] == Crop.whole((224, 448), SHAPE)
    assert talks[3].crops[-1] == Crop((0, 0, 112, 56), SHAPE)
    assert [len(talk.replies) for talk in talks] == [1, 0, 0, 2]
    assert torch.equal(talks[3].replies[1].image, talks[3].crops[-1].cut(images[1]))
    first, second, third = engine.calls
    assert (first['group_size'], second['group_size']) == (2, 1)
    assert second['prompts'][0] is talks[0].prompt and len(second['prompts']) == 2
    assert [len(prompt.parts) for prompt in (*second['prompts'], *third['prompts'])] == [2, 2, 3]
    assert all(call['temperature'] == 0.7 for call in engine.calls)
    # conversations 0 and 3, whatever their batch; other draws in each turn
    assert second['prompt_numbers'] == [0, 3] and third['prompt_numbers'] == [3]
    assert len({call['seed'] for call in engine.calls}) == 3
    # The policy's tokens are those of its texts; the others are the replies'.
    for n, talk in enumerate(talks):
        ids, mask = responses.ids[n], responses.mask[n]
        assert ids[mask].tolist() == [token for text in talk.texts for token in
                                      head.encoder.responses.encode(text)]
        written = len(talk)
        assert mask[written - 1] and not mask[written:].any()
        assert (ids[written:] == head.pad_token).all()
        others = ids[:written][~mask[:written]]
        assert int((others == head.model.config.image_token_id).sum()) == 49 * len(talk.replies)
    assert not responses.truncated.any() and responses.logp is None
    told = head.processor.tokenizer.decode(talks[3].prompt.input_ids)
    assert told.count('You may look closer 1 more time.') == 1 and told.count('Now answer.') == 1


def test_a_call_that_cannot_be_used_is_answered_in_text_and_counted(head, images):
    engine = Scripted(['<zoom>[1]</zoom>', '<zoom>[200, 0, 300, 10]</zoom>'], [QUARTER, ANSWER],
                      [ANSWER])
    _, responses, talks = hold(head, images[:1], engine, max_turns=3)
    assert [talk.bad_calls for talk in talks] == [['bad_box'], ['outside']]
    assert [len(talk.replies) for talk in talks] == [1, 0]
    assert talks[0].crops[-1] == Crop((0, 0, 224, 112), SHAPE)  # of the whole image, still the last
    told = head.processor.tokenizer.decode(responses.ids[1])
    assert 'Nothing is shown: the box should overlap the image. You may look closer 1' in told
    assert not responses.truncated.any()


def test_what_ends_a_conversation(head, images):
    long = '<think>' + 'a ' * 120 + '</think>'
    call, talks = QUARTER, {}
    for name, engine, options in (
            ('turns', Scripted([call], [call]), dict(max_turns=2)),
            ('tokens', Scripted([call]), dict(max_turns=2, max_tokens=150)),
            ('answer', Scripted(['neither']), dict(max_turns=2)),
            ('length', Scripted([call], [long]), dict(max_turns=3))):
        _, responses, (talk, ) = hold(head, images[:1], engine, 100, **options)
        assert talk.ended_by == name
        assert responses.truncated.tolist() == [name in ('tokens', 'length')]
        assert responses.mask[0, len(talk) - 1]  # never by a reply
        talks[name] = talk
    assert [len(talks[name].texts) for name in talks] == [2, 1, 1, 2]
    assert talks['tokens'].crops == [Crop.whole((224, 448), SHAPE)]
    assert not talks['tokens'].replies


@pytest.fixture
def always(monkeypatch):
    """Takes every response for a call; the toy policy writes none."""
    calls = [Zoom((10.0, 20.0, 60.0, 90.0)), BadCall('bad_box')]
    monkeypatch.setattr(conversations, 'read_turn', lambda text: calls[len(text) % 2])


def sample(head, images, engine, chosen=(0, 1)):
    questions = ['the red circle', 'something you could roll']
    prompts = head.encode_prompts(
        [torch.full((3, *SHAPE), 90 + 40 * n, dtype=torch.uint8) for n in chosen],
        [questions[n] for n in chosen])
    sampler = ConversationSampler(engine, head, 3, limits=LIMITS)
    return prompts, *sampler(prompts, [images[n] for n in chosen], [SHAPE] * len(chosen),
                             group_size=3, max_new_tokens=12, seed=5, prompt_numbers=chosen)


def test_engines_sample_the_policy_whose_log_probs_are_trained(exact_head, images, always,
                                                               monkeypatch):
    """The recorded log-probabilities are float32."""
    head = exact_head
    # so that most turns end within 12 tokens
    monkeypatch.setattr(head, 'end_tokens', [*head.end_tokens, *range(0, 300, 5)])
    prompts, found, talks = sample(head, images, SharedPrefixRollout(records_log_probs=True))
    assert max(len(talk.replies) for talk in talks) > 0
    replies = [talk.replies for talk in talks]
    expected, _ = head.log_probs(prompts, found.ids, found.mask, 1.0, replies)
    torch.testing.assert_close(found.logp, expected.detach().float(), rtol=0, atol=5e-6)
    _, other, others = sample(head, images, HFRollout())
    assert other.ids.equal(found.ids) and other.mask.equal(found.mask)
    assert [talk.ended_by for talk in others] == [talk.ended_by for talk in talks]
    _, alone, _ = sample(head, images, SharedPrefixRollout(), chosen=(1, ))
    assert [ids[mask].tolist() for ids, mask in zip(alone.ids, alone.mask, strict=True)] == [
        ids[mask].tolist() for ids, mask in zip(found.ids[3:], found.mask[3:], strict=True)]


@pytest.mark.parametrize('arguments, named', [
    (dict(max_turns=0), 'max_turns'), (dict(max_tokens=0.5), 'max_tokens'),
    (dict(limits=CropLimits()), 'the processor of .* keeps, but .*`size` of crops')])
def test_what_cannot_be_sampled_is_refused_at_once(head, arguments, named):
    with pytest.raises(ValueError, match=named):
        ConversationSampler(SharedPrefixRollout(), head, **dict(dict(limits=LIMITS), **arguments))


def test_a_turn_that_may_be_longer_than_all_turns_is_refused(head, images):
    with pytest.raises(ValueError, match='`max_tokens` of a conversation should be at least'):
        hold(head, images, Scripted([ANSWER, ANSWER]), max_tokens=399)


def test_the_question_whose_later_turn_is_not_finite_is_named(head, images):
    class Failing(Scripted):
        def __call__(self, head, prompts, **options):
            if self.calls:
                raise NonFiniteError('not finite', 1)
            return super().__call__(head, prompts, **options)

    calls = Failing([ANSWER, ANSWER, QUARTER, ANSWER, QUARTER, ANSWER])
    with pytest.raises(NonFiniteError) as raised:  # the second that goes on, in a group of three
        hold(head, images, calls, max_turns=2)
    assert raised.value.prompt == 1
