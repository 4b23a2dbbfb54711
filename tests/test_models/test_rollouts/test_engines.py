# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What every engine of the package that draws tokens itself has to keep to."""
import inspect

import pytest
import torch

from mmdpad.models import rollouts
from mmdpad.models.rollouts import DrawingEngine

ENGINES = [kind for kind in map(rollouts.__dict__.get, rollouts.__all__)
           if issubclass(kind, DrawingEngine) and not inspect.isabstract(kind)]


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param()


def test_none_is_left_out():
    assert {'HFRollout', 'SharedPrefixRollout'} <= {kind.__name__ for kind in ENGINES}


def test_the_seed_decides_and_the_global_generator_is_untouched(engine, head, prompts):
    state = torch.random.get_rng_state()
    first, again, other = (engine(head, prompts, group_size=2, max_new_tokens=12, seed=seed)
                           for seed in (3, 3, 4))
    assert first.ids.equal(again.ids) and not first.ids.equal(other.ids)
    assert torch.random.get_rng_state().equal(state)


def test_a_response_depends_on_its_prompt_not_on_the_batch(engine, exact_head, prompts):
    options = dict(max_new_tokens=40, seed=(7, 1))
    together = engine(exact_head, prompts, group_size=3, prompt_numbers=[4, 9, 2], **options)
    for place, number in enumerate([4, 9, 2]):
        alone = engine(exact_head, prompts[place:place + 1], group_size=2,
                       prompt_numbers=[number], **options)
        for g in (0, 1):
            expected = together.ids[3 * place + g][together.mask[3 * place + g]]
            assert alone.ids[g][alone.mask[g]].equal(expected)


def test_top_k_and_top_p_narrow_the_choice(engine, head, prompts):
    greedy = engine(head, prompts, temperature=0, max_new_tokens=5)
    for narrow in (dict(top_k=1), dict(top_p=1e-6)):
        responses = engine(head, prompts, temperature=6.0, max_new_tokens=5, **narrow)
        assert responses.ids.equal(greedy.ids)


def test_mask_ends_with_the_first_end_token(engine, head, prompts):
    end = head.processor.tokenizer.eos_token_id
    responses = engine(head, prompts, group_size=8, max_new_tokens=90, seed=0)
    lengths = responses.mask.sum(dim=1)
    assert lengths.min() < responses.ids.shape[1]
    for ids, mask, truncated in zip(*responses[:3], strict=True):
        chosen = ids[mask].tolist()
        assert mask[:len(chosen)].all()
        assert (end in chosen) != bool(truncated)
        assert end not in chosen[:-1]
        assert (ids[~mask] == head.processor.tokenizer.pad_token_id).all()
    short = engine(head, prompts, max_new_tokens=3)
    assert short.truncated.all() and short.mask.all()


def test_vision_tokens_are_never_sampled(engine, head, prompts):
    # Without the rule this temperature would give some: the distribution is nearly flat.
    responses = engine(head, prompts, group_size=16, temperature=50.0, max_new_tokens=64)
    assert len(head.vision_token_ids) >= 4
    assert not torch.isin(responses.ids[responses.mask],
                          torch.tensor(head.vision_token_ids)).any()
    logp, _ = head.log_probs(prompts, responses.ids, responses.mask)
    assert logp.isfinite().all()


def test_nothing_is_left_on_the_model(engine, head, prompts):
    head.train()
    attributes = set(vars(head.model.model))
    engine(head, prompts, max_new_tokens=2)
    assert all(module.training for module in head.modules())
    assert head.model.model.rope_deltas is None
    assert set(vars(head.model.model)) == attributes
    assert all(p.grad is None and p.requires_grad for p in head.parameters())
    head.eval()


def test_samples_follow_the_distribution_of_the_log_probs(engine, qwen3_head):
    """First tokens of many samples against their probabilities: Pearson's chi-square."""
    head, group, temperature = qwen3_head, 4000, 1.0  # HFRollout computes the prompt 4000 times
    prompts = head.encode_prompts([torch.full((3, 64, 64), 90, dtype=torch.uint8)], ['a star'])
    responses = engine(head, prompts, group_size=group, temperature=temperature,
                       max_new_tokens=1, seed=0)
    size = head.model.config.text_config.vocab_size
    tokens = torch.tensor([i for i in range(size) if i not in head.vision_token_ids])
    with torch.no_grad():
        logp, _ = head.log_probs(prompts, tokens[:, None],
                                 torch.ones(len(tokens), 1, dtype=torch.bool), temperature)
    expected = logp.exp()[:, 0] * group
    counts = torch.bincount(responses.ids[:, 0], minlength=size)[tokens]
    assert expected.sum() == pytest.approx(group, rel=1e-4)
    likely = expected >= 5  # the rest makes one cell together
    cells = [torch.cat([x[likely], x[~likely].sum()[None]]) for x in (counts.float(), expected)]
    chi_square = float(((cells[0] - cells[1])**2 / cells[1]).sum())
    freedom = len(cells[0]) - 1
    assert freedom >= 5
    assert chi_square < freedom + 5 * (2 * freedom)**0.5  # five standard deviations
