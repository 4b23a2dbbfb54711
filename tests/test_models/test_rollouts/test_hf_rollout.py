# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.models import HFRollout
from mmdpad.models.rollouts.hf_rollout import InverseTransformSampling, uniform_draws

QUESTIONS = ['the red circle', 'something you could roll']


@pytest.fixture(scope='module')
def prompts(head):
    images = [torch.full((3, 112, 112), value, dtype=torch.uint8) for value in (90, 200)]
    return head.encode_prompts(images, QUESTIONS)


def test_the_seed_decides_and_the_global_generator_is_untouched(head, prompts):
    state = torch.random.get_rng_state()
    first, again, other = (HFRollout()(head, prompts, group_size=2, max_new_tokens=12, seed=seed)
                           for seed in (3, 3, 4))
    assert first.ids.equal(again.ids) and not first.ids.equal(other.ids)
    assert torch.random.get_rng_state().equal(state)


def test_a_response_depends_on_its_prompt_not_on_the_batch(head, prompts):
    both = HFRollout()(head, prompts, group_size=2, max_new_tokens=40, seed=(7, 1),
                       prompt_numbers=[4, 9])
    second = type(prompts)({k: v[1:] if k != 'pixel_values' else v[196:]
                            for k, v in prompts.items()})
    alone = HFRollout()(head, second, group_size=2, max_new_tokens=40, seed=(7, 1),
                        prompt_numbers=[9])
    for row in (0, 1):
        expected = both.ids[2 + row][both.mask[2 + row]]
        assert alone.ids[row][alone.mask[row]].equal(expected)


def test_uniform_draws_by_row():
    draws = uniform_draws(5, [3, 0], 2, 4)
    assert draws.shape == (4, 4) and draws.dtype == torch.float64
    assert (draws >= 0).all() and (draws < 1).all()
    assert len(set(draws[:, 0].tolist())) == 4
    assert draws[2:].equal(uniform_draws([5], [0], 2, 4))
    assert not draws.equal(uniform_draws(6, [3, 0], 2, 4))


def test_inverse_transform_by_hand():
    # Cumulative .25, .25, .75, 1: a token of probability 0 is never drawn, at no edge
    scores = torch.tensor([.25, 0., .5, .25]).log().expand(5, 4)
    draws = torch.tensor([0., .2499, .25, .7499, 1.], dtype=torch.float64)[:, None]
    chosen = InverseTransformSampling(draws, 3)(torch.zeros(5, 3), scores)
    assert chosen.argmax(dim=1).tolist() == [0, 0, 2, 2, 3]
    assert (chosen == 0).sum(dim=1).tolist() == [1] * 5
    last = torch.tensor([[.5, .5, 0.]]).log()
    assert InverseTransformSampling(torch.ones(1, 1).double(), 3)(
        torch.zeros(1, 3), last).argmax() == 1


def test_top_k_and_top_p_narrow_the_choice(head, prompts):
    greedy = HFRollout()(head, prompts, temperature=0, max_new_tokens=5)
    for narrow in (dict(top_k=1), dict(top_p=1e-6)):
        responses = HFRollout()(head, prompts, temperature=6.0, max_new_tokens=5, **narrow)
        assert responses.ids.equal(greedy.ids)


def test_greedy_equals_generate(head, prompts):
    responses = HFRollout()(head, prompts, temperature=0, max_new_tokens=90)
    plain = head.model.generate(**prompts, do_sample=False, max_new_tokens=90)
    plain = plain[:, prompts['input_ids'].shape[1]:]
    assert responses.ids[responses.mask].equal(plain[responses.mask])


def test_mask_ends_with_the_first_end_token(head, prompts):
    end = head.processor.tokenizer.eos_token_id
    responses = HFRollout()(head, prompts, group_size=8, max_new_tokens=90, seed=0)
    for ids, mask, truncated in zip(*responses, strict=True):
        chosen = ids[mask].tolist()
        assert mask[:len(chosen)].all()
        assert (end in chosen) != bool(truncated)
        assert end not in chosen[:-1]
    short = HFRollout()(head, prompts, max_new_tokens=3)
    assert short.truncated.all() and short.mask.all()


def test_vision_tokens_are_never_sampled(head, prompts):
    # Without the rule this temperature would give some: the distribution is nearly flat.
    responses = HFRollout()(head, prompts, group_size=16, temperature=50.0, max_new_tokens=64)
    assert len(head.vision_token_ids) >= 4
    assert not torch.isin(responses.ids[responses.mask],
                          torch.tensor(head.vision_token_ids)).any()
    logp, _ = head.log_probs(prompts, responses.ids, responses.mask)
    assert logp.isfinite().all()


def test_the_mode_and_generation_defaults_of_the_model_are_kept(head, prompts):
    defaults = head.model.generation_config
    head.train()
    HFRollout()(head, prompts, max_new_tokens=2)
    assert head.model.training and head.model.generation_config is defaults
    head.eval()


def test_samples_follow_the_distribution_of_the_log_probs(head, prompts):
    """First tokens of many samples against their probabilities: Pearson's chi-square."""
    group, temperature = 1500, 6.0
    first = type(prompts)({k: v[:1] if k != 'pixel_values' else v[:196]
                           for k, v in prompts.items()})
    responses = HFRollout()(head, first, group_size=group, temperature=temperature,
                            max_new_tokens=1, seed=5)
    size = head.model.config.text_config.vocab_size
    tokens = torch.tensor([i for i in range(size) if i not in head.vision_token_ids])
    with torch.no_grad():
        logp, _ = head.log_probs(first, tokens[:, None],
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
