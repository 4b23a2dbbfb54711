# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pickle
from types import SimpleNamespace

import pytest
import torch

from mmdpad.models.heads.prompt_encoder import (
    EncodedPrompt,
    EncodingCollate,
    PromptEncoder,
    collate_images,
    collate_text,
    join_vision,
)

IMAGE = torch.full((3, 112, 112), 90, dtype=torch.uint8)


def test_a_prompt_holds_the_image_and_the_question(head):
    prompt = head.encoder(IMAGE, 'the red circle')
    assert int((prompt.input_ids == head.model.config.image_token_id).sum()) == 49  # 7 x 7
    assert int((prompt.token_types == 1).sum()) == 49 and prompt.grid.tolist() == [[1, 14, 14]]
    assert len(prompt.pixel_values) == 196 and len(prompt) == len(prompt.input_ids)
    assert 'red circle' in head.processor.tokenizer.decode(prompt.input_ids)


def test_an_image_that_the_processor_would_resize_is_refused(head):
    with pytest.raises(ValueError, match=r'\(120, 113\) becomes .*multiples of 16'):
        head.encode_prompts([torch.zeros(3, 120, 113, dtype=torch.uint8)], ['x'])


def test_a_prompt_that_is_too_long_is_refused(policy_config):
    encoder = PromptEncoder(policy_config['pretrained'], policy_config['prompt_template'], 60)
    with pytest.raises(ValueError, match='max_prompt_tokens'):
        encoder(IMAGE, 'the red circle')


def test_collate_encodes_in_a_worker_that_was_spawned(head):
    """What goes to a worker is pickled."""
    collate = pickle.loads(pickle.dumps(EncodingCollate(head.encoder, list)))
    sample = dict(inputs=dict(prompt_image=IMAGE), data_samples=SimpleNamespace(question='star'))
    (batch, ) = collate([sample])
    assert batch['inputs']['prompt'].input_ids.equal(head.encoder(IMAGE, 'star').input_ids)


def prompt(ids, patches, vision=None):
    return EncodedPrompt(torch.tensor(ids), torch.tensor([0] * len(ids)),
                         torch.full((patches, 2), float(patches)),
                         torch.tensor([[1, 1, patches]]), vision)


def test_collation_pads_on_the_left():
    prompts = [prompt([5, 6], 1), prompt([7, 8, 9], 2)]
    text = collate_text(prompts, 3, torch.device('cpu'))
    assert text['input_ids'].tolist() == [[3, 5, 6], [7, 8, 9]]
    assert text['attention_mask'].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert text['mm_token_type_ids'].shape == (2, 3)
    pixels, grid = collate_images(prompts, torch.device('cpu'))
    assert pixels[:, 0].tolist() == [1, 2, 2] and grid.tolist() == [[1, 1, 1], [1, 1, 2]]


def test_vision_is_joined_level_by_level():
    a, b, c, d = torch.eye(4)
    joined = join_vision([prompt([1], 1, (a, b)), prompt([1], 1, (c, d))])
    assert joined.pooler_output == (a, c) and joined.deepstack_features == [(b, d)]
    assert join_vision([prompt([1], 1, (a, ))]).deepstack_features == []
