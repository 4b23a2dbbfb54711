# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from mostly_slow import mostly_slow
from same_responses import assert_same

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import continuous_batching, prefix_cache, shared_prefix_rollout

QUESTIONS = ['the red circle', 'something you could roll', 'what is left of the small blue star']


@pytest.fixture(scope='module')
def qwen3_prompts(qwen3_head):
    images = [torch.full((3, *size), value, dtype=torch.uint8)
              for size, value in zip([(64, 96), (128, 128), (64, 64)], (90, 200, 30), strict=True)]
    return qwen3_head.encode_prompts(images, QUESTIONS)


@pytest.fixture
def log_probs(monkeypatch):
    """(sample, step) -> the log-probability that the engine's model gave the chosen token."""
    found = {}

    class Spy(continuous_batching.TokenChoice):

        def __call__(self, logits, samples, steps):
            tokens, highest = super().__call__(logits, samples, steps)
            scores = logits.index_fill(1, self.forbidden, -torch.inf).log_softmax(dim=-1)
            # A place after a wrong guess comes again, and the last time counts.
            found.update({place: scores[row, tokens[row]] for row, place in
                          enumerate(zip(samples.tolist(), steps.tolist(), strict=True))})
            return tokens, highest

    monkeypatch.setattr(continuous_batching, 'TokenChoice', Spy)
    return found


@pytest.mark.parametrize('seed', mostly_slow(range(6), fast=[0]))
@pytest.mark.parametrize('options', [
    dict(), dict(group_size=5), dict(group_size=4, temperature=0.7, top_k=5),
    dict(group_size=3, temperature=2.0, top_p=0.8)])
def test_same_tokens_as_hf_rollout(exact_head, prompts, options, seed):
    options = dict(max_new_tokens=40, seed=seed, **options)
    assert_same(SharedPrefixRollout()(exact_head, prompts, **options),
                HFRollout()(exact_head, prompts, **options))


def test_greedy_tokens_equal_those_of_hf_rollout(head, prompts):
    options = dict(temperature=0, max_new_tokens=90)
    expected = HFRollout()(head, prompts, **options)
    assert_same(SharedPrefixRollout()(head, prompts, **options), expected)
    twice = SharedPrefixRollout()(head, prompts, group_size=2, **options)
    assert twice.ids[::2].equal(expected.ids) and twice.ids[1::2].equal(expected.ids)


def test_the_model_gives_the_tokens_the_log_probs_of_the_head(exact_head, prompts, log_probs):
    """With samples and prompts that leave at their ends, and prompts of different lengths."""
    responses = SharedPrefixRollout()(exact_head, prompts, group_size=4, max_new_tokens=90)
    lengths = responses.mask.sum(dim=1).tolist()
    assert len(set(lengths)) > 6
    with torch.no_grad():
        expected, _ = exact_head.log_probs(prompts, responses.ids, responses.mask)
    found = [log_probs[row, step] for row, length in enumerate(lengths) for step in range(length)]
    torch.testing.assert_close(torch.stack(found), expected[responses.mask], rtol=0, atol=1e-12)


@pytest.mark.parametrize('tokens', [1, 150, 300])
def test_which_prompts_run_together_changes_nothing(exact_head, prompts, tokens, monkeypatch):
    rows, row_states = [], shared_prefix_rollout.row_states

    def spy(model, part, *args):
        rows.append(len(part))
        return row_states(model, part, *args)

    monkeypatch.setattr(shared_prefix_rollout, 'row_states', spy)
    options = dict(group_size=2, max_new_tokens=20)
    assert_same(SharedPrefixRollout(tokens)(exact_head, prompts, **options),
                HFRollout()(exact_head, prompts, **options))
    assert rows == {1: [1, 1, 1], 150: [2, 1], 300: [3]}[tokens]


def test_block_size_changes_nothing(exact_head, prompts, monkeypatch):
    options = dict(group_size=3, max_new_tokens=40)
    expected = SharedPrefixRollout()(exact_head, prompts, **options)
    monkeypatch.setattr(prefix_cache, 'CPU_BLOCK', 7)
    assert_same(SharedPrefixRollout()(exact_head, prompts, **options), expected)


def test_a_sample_alone_in_its_batch(exact_head, prompts):
    """Nothing ever leaves a batch of one, so this is how nothing depends on who has left."""
    together = SharedPrefixRollout()(exact_head, prompts, group_size=6, max_new_tokens=90)
    assert len(set(together.mask.sum(dim=1).tolist())) > 6
    for number, prompt in enumerate(prompts):
        alone = SharedPrefixRollout()(exact_head, [prompt], prompt_numbers=[number],
                                      max_new_tokens=90)
        assert alone.ids[alone.mask].equal(together.ids[6 * number][together.mask[6 * number]])


def test_qwen3_vl(qwen3_folder, qwen3_head, qwen3_prompts):
    head = type(qwen3_head)(qwen3_folder, prompt_template=qwen3_head.encoder.template,
                            dtype='float64')
    options = dict(group_size=3, max_new_tokens=30)
    assert_same(SharedPrefixRollout()(head, qwen3_prompts, **options),
                HFRollout()(head, qwen3_prompts, **options))


def test_with_an_adapter(policy_config, prompts):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, dtype='float64', lora=dict(r=4))
    options = dict(group_size=3, max_new_tokens=30, seed=1)
    before = SharedPrefixRollout()(head, prompts, **options)
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            parameter.data.normal_(std=0.1)
    responses = SharedPrefixRollout()(head, prompts, **options)
    assert not responses.ids.equal(before.ids)
    assert_same(responses, HFRollout()(head, prompts, **options))
    with head.adapter_off():
        assert_same(SharedPrefixRollout()(head, prompts, **options), before)


def test_with_gradient_checkpointing_and_in_training_mode(policy_config, exact_head, prompts):
    head = VLMReasoningHead(**policy_config, dtype='float64', gradient_checkpointing=True).train()
    options = dict(group_size=2, max_new_tokens=20)
    assert_same(SharedPrefixRollout()(head, prompts, **options),
                SharedPrefixRollout()(exact_head, prompts, **options))
    assert all(module.training for module in head.modules())


def test_under_autocast(head, prompts, log_probs):
    with torch.autocast('cpu', torch.bfloat16):
        responses = SharedPrefixRollout()(head, prompts, group_size=3, max_new_tokens=40)
    with torch.no_grad():
        expected, _ = head.log_probs(prompts, responses.ids, responses.mask)
    found = torch.stack([log_probs[row, step].float() for row, step in
                         responses.mask.nonzero().tolist()])
    assert (found - expected[responses.mask]).abs().mean() < 0.03  # eight bits of mantissa
    assert prefix_cache_dtype(head, prompts) == torch.bfloat16


def prefix_cache_dtype(head, prompts):
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        cache, _, _ = SharedPrefixRollout()._prefill(head, prompts)
    assert len({x.dtype for x in cache.keys + cache.values}) == 1
    return cache.keys[0].dtype


def test_the_cache_holds_a_prompt_once_and_what_has_ended_leaves(head, prompts):
    lengths = [len(prompt) for prompt in prompts]
    with torch.no_grad():
        cache, logits, starts = SharedPrefixRollout()._prefill(head, prompts)
    assert len(logits) == len(starts) == 3
    assert {x.shape for x in cache.keys + cache.values} == {(2, 3, max(lengths), 32)}
    cache.start_samples(group_size=3)
    assert cache.make_room(1) and not cache.make_room(16)
    assert {x.shape for x in cache.own_keys + cache.own_values} == {(2, 9, 16, 32)}
    assert cache.feed(torch.arange(9)).prompts.tokens is None
    kept = torch.tensor([0, 3, 5])  # one of the first prompt, two of the second, none of the third
    before = cache.keys[0].clone()
    cache.keep(kept)
    assert {x.shape for x in cache.own_keys + cache.own_values} == {(2, 3, 16, 32)}
    assert {x.shape for x in cache.keys + cache.values} == {(2, 2, max(lengths[:2]), 32)}
    assert cache.keys[0].equal(before[:, :2, :max(lengths[:2])])
    prompts = cache.feed(torch.arange(3)).prompts
    assert prompts.cells.tolist() == [0, 2, 3]
    assert prompts.tokens.tolist() == [0, 0, 1, 2]


def test_another_attention_implementation_is_refused(policy_config, prompts):
    head = VLMReasoningHead(**policy_config, attn_implementation='eager')
    with pytest.raises(ValueError, match="attn_implementation='shared_prefix'.*'eager'.*HFRollout"):
        SharedPrefixRollout()(head, prompts)


def test_recorded_log_probs_are_those_of_the_head(exact_head, prompts):
    engine = SharedPrefixRollout(records_log_probs=True)
    options = dict(group_size=3, temperature=1.7, top_k=40, max_new_tokens=50, seed=1)
    responses = engine(exact_head, prompts, **options)
    with torch.no_grad():
        expected, _ = exact_head.log_probs(prompts, responses.ids, responses.mask, 1.7)
    torch.testing.assert_close(responses.logp, expected.float(), rtol=0, atol=2e-5)
    assert (responses.logp[responses.mask] < 0).any()
    assert SharedPrefixRollout()(exact_head, prompts, **options).logp is None
