# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns in which a policy asks for the mask of an answer, in conversations that are sampled."""
import pytest
import torch
from scripted_rollout import Scripted

from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.models import SharedPrefixRollout
from mmdpad.models.rollouts import conversations
from mmdpad.models.rollouts.conversations import ConversationSampler
from mmdpad.prompts.zoom import BadCall, ShowMask

LIMITS = CropLimits(min_side=28, size=(112, 112))
SHAPE = (112, 112)
WHOLE, QUARTER = Crop.whole((224, 448), SHAPE), Crop((0, 0, 224, 112), SHAPE)
ANSWER = '<think>t</think><answer>{}</answer>'
ZOOM = '<think>t</think><zoom>[0, 0, 56, 56]</zoom>'
MASK = '<think>t</think><mask>{"bbox": 1}</mask>'


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, 224, 448), generator=generator, dtype=torch.uint8)
            for _ in range(2)]


def sample(head, images, engine, prepare_mask=None, chosen=(0, 1), group_size=1,
           max_new_tokens=100, **options):
    prompts = head.encode_prompts([torch.full((3, *SHAPE), 90, dtype=torch.uint8)] * len(images),
                                  ['the star', 'the circle'])
    settings = dict(max_turns=3, max_tokens=2000) | options
    sampler = ConversationSampler(engine, head, limits=LIMITS, **settings)
    some = [prompts[n] for n in chosen], [images[n] for n in chosen], [SHAPE] * len(chosen)
    found = sampler(*some, group_size=group_size, max_new_tokens=max_new_tokens, seed=1,
                    prompt_numbers=chosen, prepare_mask=prepare_mask and (
                        lambda number, *about: prepare_mask(chosen[number], *about)))
    return sampler, some[0], *found


def test_a_mask_is_shown_on_the_image_that_was_shown_last(head, images):
    asked = []

    def prepare(number, crop, text):
        asked.append((number, crop, text))
        return lambda: crop.cut(images[number]) // 2  # instead of an outline

    engine = Scripted([ZOOM, MASK], [MASK, ZOOM], [ANSWER, MASK])
    sampler, _, responses, talks = sample(head, images, engine, prepare)
    text = '{"bbox": 1}'
    assert asked == [(1, WHOLE, text), (0, QUARTER, text), (1, QUARTER, text)]
    for talk, image, crops in zip(talks, images, ((QUARTER, QUARTER), (WHOLE, QUARTER)),
                                  strict=True):
        shown = [reply.image for reply in talk.replies]
        masked = [talk.texts[0] == ZOOM, talk.texts[0] == MASK]
        assert [torch.equal(one, crop.cut(image) // (1 + is_mask)) for one, crop, is_mask in zip(
            shown, crops, reversed(masked), strict=True)] == [True, True]
        assert not any(one.requires_grad for one in shown)
    records = [talk.record for talk in talks]
    assert [(record.masks, record.crops, record.bad_calls, record.ended_by)
            for record in records] == [(1, (QUARTER, ), (), 'answer'),
                                       (1, (QUARTER, ), (), 'turns')]
    told = head.processor.tokenizer.decode(talks[1].prompt.input_ids)
    assert told.index('with the mask of your answer outlined. Coordinates still refer to it. You '
                      'may look closer 1 more time.') < told.index('This is that part')
    for record, number in zip(records, (0, 1), strict=True):
        asked.clear()
        again = sampler.replay(record.texts, False, (224, 448), SHAPE,
                               lambda *about, number=number: prepare(number, *about))
        assert again == record and asked
    assert not responses.truncated.any()


def test_masks_that_are_not_shown_are_bad_calls(head, images):
    unclosed = MASK.replace('</mask>', '')
    engine = Scripted([MASK, unclosed], [MASK, MASK], [ANSWER, ANSWER])
    sampler, _, responses, talks = sample(
        head, images, engine, lambda number, crop, text: BadCall('bad_mask'))
    assert [talk.bad_calls for talk in talks] == [['bad_mask'] * 2] * 2
    assert not any(talk.masks or talk.replies for talk in talks)
    told = head.processor.tokenizer.decode(responses.ids[0])
    assert 'Nothing is shown: a call should be <mask>...</mask> around a complete answer' in told
    _, _, responses, talks = sample(head, images, Scripted([MASK] * 2, [ANSWER] * 2))
    assert [talk.bad_calls for talk in talks] == [['no_masks']] * 2
    told = head.processor.tokenizer.decode(responses.ids[0])
    assert 'Nothing is shown: there are no masks to check. You may look' in told


def test_a_mask_counts_when_it_is_shown(head, images):
    """Not one for which no turn or too few tokens are left."""
    drawn = []

    def prepare(number, crop, text):
        return lambda: drawn.append(text) or crop.cut(images[number])

    for ended_by, options in (('turns', dict(max_turns=1)), ('tokens', dict(max_tokens=150))):
        sampler, _, _, (talk, ) = sample(head, images, Scripted([MASK]), prepare, (0, ), **options)
        assert (talk.ended_by, talk.masks, talk.replies) == (ended_by, 0, [])
        assert sampler.replay(talk.texts, ended_by == 'tokens', (224, 448), SHAPE,
                              lambda *about: prepare(0, *about)) == talk.record
        assert len(drawn) == (ended_by == 'tokens')


def test_what_is_drawn_does_not_depend_on_the_batch(exact_head, images, monkeypatch):
    """And log-probabilities are those of a pass with the images that were shown."""
    head = exact_head
    monkeypatch.setattr(conversations, 'read_turn', lambda text: ShowMask(str(len(text))))
    monkeypatch.setattr(head, 'end_tokens', [*head.end_tokens, *range(0, 300, 5)])

    def prepare(number, crop, text):
        return lambda: (crop.cut(images[number]) + int(text)).byte()

    engine = SharedPrefixRollout(records_log_probs=True)
    _, prompts, found, talks = sample(head, images, engine, prepare, (0, 1), 3, 12)
    assert max(talk.masks for talk in talks) > 0
    expected, _ = head.log_probs(prompts, found.ids, found.mask, 1.0,
                                 [talk.replies for talk in talks])
    torch.testing.assert_close(found.logp, expected.detach().float(), rtol=0, atol=1e-5)
    _, _, alone, others = sample(head, images, SharedPrefixRollout(), prepare, (1, ), 3, 12)
    assert [talk.record for talk in others] == [talk.record for talk in talks[3:]]
    assert [ids[mask].tolist() for ids, mask in zip(alone.ids, alone.mask, strict=True)] == [
        ids[mask].tolist() for ids, mask in zip(found.ids[3:], found.mask[3:], strict=True)]
