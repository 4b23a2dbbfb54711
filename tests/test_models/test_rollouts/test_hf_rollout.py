# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import torch

from mmdpad.models import HFRollout, SharedPrefixRollout
from mmdpad.models.rollouts.hf_rollout import InverseTransformSampling


def test_inverse_transform_leaves_the_drawn_token():
    scores = torch.tensor([.25, 0., .5, .25]).log().expand(3, 4)
    draws = torch.tensor([.1, .5, .9], dtype=torch.float64)[:, None]
    chosen = InverseTransformSampling(draws, 3)(torch.zeros(3, 3), scores)
    assert chosen.argmax(dim=1).tolist() == [0, 2, 3]
    assert (chosen == 0).sum(dim=1).tolist() == [1, 1, 1]


def test_greedy_equals_generate(head, prompts):
    responses = HFRollout()(head, prompts, temperature=0, max_new_tokens=90)
    batch = head.family.generation_inputs(prompts, head.processor.tokenizer.pad_token_id,
                                          head.device)
    plain = head.model.generate(**batch, do_sample=False, max_new_tokens=90)
    plain = plain[:, batch['input_ids'].shape[1]:]
    assert responses.ids[responses.mask].equal(plain[responses.mask])


def test_greedy_copies_are_those_of_the_other_engine(head, prompts):
    options = dict(group_size=3, temperature=0, max_new_tokens=20)
    found = HFRollout()(head, prompts, **options)
    assert found.ids.equal(SharedPrefixRollout()(head, prompts, **options).ids)
    assert found.ids[0].equal(found.ids[2]) and not found.ids[2].equal(found.ids[3])


def test_generation_defaults_of_the_model_are_kept(head, prompts):
    defaults = head.model.generation_config
    HFRollout()(head, prompts, max_new_tokens=2)
    assert head.model.generation_config is defaults
