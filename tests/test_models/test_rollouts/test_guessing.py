# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Guesses change in how many passes tokens are sampled, never which ones."""
import numpy as np
import pytest
import torch
from mostly_slow import mostly_slow
from same_responses import assert_same

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import ngrams
from mmdpad.models.rollouts.guess_memory import GuessMemory
from mmdpad.models.rollouts.guessing import Guesser
from mmdpad.models.rollouts.ngrams import CONTEXTS, look_up, pack


@pytest.fixture
def passes(monkeypatch):
    """The guesser of each rollout, when it is done."""
    done, finish = [], Guesser.finish

    def spy(guesser):
        finish(guesser)
        done.append(guesser)

    monkeypatch.setattr(Guesser, 'finish', spy)
    return done


@pytest.fixture
def scripted(monkeypatch):
    """Guesses `texts` (N, R) at most `most` places ahead, changed by `change`."""
    def script(texts, most, change=lambda tokens: tokens):
        def guess(self, samples):
            self.passes += 1
            starts = self.lengths[samples]
            counts = np.minimum(most, self.ids.shape[1] - 1 - starts)
            for sample, start, count in zip(samples, starts, counts, strict=True):
                self.ids[sample, start:start + count] = change(texts[sample, start:start + count])
            return counts

        monkeypatch.setattr(Guesser, 'guess', guess)
    return script


OPTIONS = [dict(group_size=4), dict(group_size=3, temperature=1.6, top_p=0.9),
           dict(group_size=2, temperature=0.7, top_k=5), dict(temperature=0)]


@pytest.mark.parametrize('options', mostly_slow(OPTIONS, fast=[OPTIONS[0], OPTIONS[-1]]),
                         ids=['t1', 'top-p', 'top-k', 'greedy'])
def test_the_same_tokens_and_log_probs_as_without(exact_head, prompts, options, passes):
    """Also in later rollouts, which guess more, of groups that end at different places. (A config
    may write whole numbers as floats.)"""
    guessing_, plain = (SharedPrefixRollout(records_log_probs=True, max_guess=most, pass_cost=300)
                        for most in (15.0, 0))
    for seed in range(5):
        how = dict(max_new_tokens=60, seed=seed, **options)
        assert_same(guessing_(exact_head, prompts, **how), plain(exact_head, prompts, **how))
    with_guesses, without = passes[::2], passes[1::2]
    assert sum(g.passes for g in with_guesses) < 0.9 * sum(g.passes for g in without)
    assert all(g.fed == 0 or g.fed == g.turns for g in without)


def test_with_an_adapter_and_qwen3_vl(policy_config, prompts, qwen3_folder, qwen3_head):
    pytest.importorskip('peft')
    lora = VLMReasoningHead(**policy_config, dtype='float64', lora=dict(r=4))
    for name, parameter in lora.named_parameters():
        if name in lora.adapter_keys:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    other = VLMReasoningHead(qwen3_folder, prompt_template=qwen3_head.encoder.template,
                             dtype='float64')
    images = [torch.full((3, *size), 90, dtype=torch.uint8) for size in [(64, 96), (128, 128)]]
    asked = qwen3_head.encode_prompts(images, ['the red circle', 'a star'])
    for head, some in ((lora, prompts), (other, asked)):
        engines = [SharedPrefixRollout(max_guess=most, pass_cost=300) for most in (15, 0)]
        for seed in range(2):
            assert_same(*(engine(head, some, group_size=3, max_new_tokens=30, seed=seed)
                          for engine in engines))


@pytest.mark.parametrize('options', [dict(group_size=3, seed=2), dict(temperature=0)],
                         ids=['drawn', 'greedy'])
def test_right_guesses_need_one_pass_for_many_tokens(exact_head, prompts, options, scripted,
                                                     passes):
    options = dict(max_new_tokens=60, **options)
    expected = SharedPrefixRollout(max_guess=0)(exact_head, prompts, **options)
    longest = int(expected.mask.sum(dim=1).max())
    texts = torch.nn.functional.pad(expected.ids, (0, 60 - longest), value=7).numpy()
    for most in (1, 4, 59):  # the last one guesses beyond all ends
        scripted(texts, most)
        assert_same(SharedPrefixRollout(pass_cost=300)(exact_head, prompts, **options), expected)
        assert passes[-1].passes == -(-(longest - 1) // (most + 1))


@pytest.mark.parametrize('token', ['wrong', 'vision', 'end'])
def test_wrong_guesses_change_nothing(exact_head, prompts, scripted, passes, token):
    options = dict(group_size=3, max_new_tokens=40, seed=4)
    expected = SharedPrefixRollout(max_guess=0)(exact_head, prompts, **options)
    texts = np.pad(expected.ids.numpy(), ((0, 0), (0, 40)))
    scripted(texts, 3, dict(
        wrong=lambda tokens: (tokens + 1) % 500,
        vision=lambda tokens: np.full_like(tokens, exact_head.vision_token_ids[0]),
        end=lambda tokens: np.full_like(tokens, exact_head.end_tokens[0]))[token])
    assert_same(SharedPrefixRollout(pass_cost=300)(exact_head, prompts, **options), expected)
    if token != 'end':
        assert passes[-1].passes == int(expected.mask.sum(dim=1).max()) - 1


@pytest.mark.parametrize('full_grids', [False, True])
def test_a_guess_with_logits_that_are_not_finite_changes_nothing(policy_config, prompts, scripted,
                                                                 passes, monkeypatch, full_grids):
    """As one of activations that leave the range of float16; the draws never choose it."""
    head = VLMReasoningHead(**policy_config, dtype='float64').eval()
    token = next(token for token in head.vision_token_ids
                 if not any((prompt.input_ids == token).any() for prompt in prompts))
    head.model.model.language_model.embed_tokens.weight.data[token] = torch.nan
    options = dict(group_size=3, max_new_tokens=20, seed=4)
    expected = SharedPrefixRollout(max_guess=0)(head, prompts, **options)
    monkeypatch.setattr('mmdpad.models.rollouts.decoding.Decoding.full_grids', full_grids)
    scripted(np.pad(expected.ids.numpy(), ((0, 0), (0, 20))), 3, lambda tokens: np.where(
        np.arange(len(tokens)) == 1, token, tokens))
    assert_same(SharedPrefixRollout(pass_cost=300)(head, prompts, **options), expected)


def test_full_grids_change_nothing(exact_head, prompts, monkeypatch):
    """As CUDA graphs need them: ended samples and places without guesses are fed, too."""
    options = dict(group_size=3, max_new_tokens=40, seed=1)
    expected = SharedPrefixRollout(max_guess=0)(exact_head, prompts, **options)
    monkeypatch.setattr('mmdpad.models.rollouts.decoding.Decoding.full_grids', True)
    for _ in range(2):
        assert_same(SharedPrefixRollout(pass_cost=300)(exact_head, prompts, **options), expected)


def test_tokens_are_streamed_in_order(exact_head, prompts):
    engine, seen = SharedPrefixRollout(pass_cost=300), []
    options = dict(temperature=0, max_new_tokens=60)
    engine(exact_head, prompts[:1], **options)
    with engine.streaming(lambda tokens: seen.append(tokens)):
        responses = engine(exact_head, prompts[:1], **options)
    assert torch.cat(seen).equal(responses.ids[0]) and {x.shape for x in seen} == {(1,)}


def test_what_was_answered_before_is_guessed_at_once(exact_head, prompts, passes):
    engine = SharedPrefixRollout(pass_cost=300)
    for _ in range(2):
        engine(exact_head, prompts[:1], temperature=0, max_new_tokens=60)
    tokens = int(passes[1].lengths[0])
    assert tokens > 20 and passes[1].passes < 0.4 * tokens < passes[0].passes


def test_the_nearest_draw_in_a_context_decides():
    """The token of the nearer one; the code says how many of four agree, 4 more if not all."""
    contexts = np.zeros((6, 1), dtype=np.uint64) + np.uint64(5 << 36)
    draws = np.array([1, 2, 3, 30, 40, 50], dtype=np.uint64)
    seen = ngrams.sort_observations(pack(contexts, draws, np.array([8, 8, 8, 9, 9, 8])))
    for draw, token, code in [(2, 8, 3), (10, 8, 2 + 4), (20, 9, 2 + 4), (35, 9, 2 + 4),
                              (49, 8, 1 + 4), (60, 8, 1 + 4)]:
        found = look_up(seen, contexts[:1], np.array([draw], dtype=np.uint64))
        assert [x.item() for x in found] == [token, code], draw
    other = np.array([[6 << 36]], dtype=np.uint64)
    assert look_up(seen, other, draws[:1])[1].item() == 0


def test_only_what_was_observed_is_guessed():
    """A pass that costs much makes unlikely guesses worthwhile, but the neighbor of a context that
    was never seen may be the end of all observations, which is no token."""
    memory, rng, size = GuessMemory(), np.random.default_rng(0), 512
    for _ in range(10):
        guesser = Guesser(memory, [rng.integers(size, size=30)], 1, rng.random((1, 40)), 40, [size],
                          15, 1e3)
        counts = np.zeros(1, dtype=np.int64)
        while guesser.lengths[0] < 40:
            guesser.verify(np.array([0]), 1 + counts, rng.integers(12, size=(1, 1 + counts[0])))
            counts = guesser.guess(np.array([0]))
            assert guesser.ids.max() < size and guesser.ids.min() >= 0
        guesser.finish()
        memory.share()
    assert memory.tally()[1, 0, 0, 0, 0] == 0


def test_greedy_samples_repeat_what_was_answered_last():
    """Of two answers to the same question, that of this batch and not that of a rollout before."""
    memory = GuessMemory()
    for text in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 9, 7, 8]):
        guesser = Guesser(memory, [np.array([20, 21])] * 2, 1, None, 8, [30], 3, 300)
        for sample in range(2):
            counts = np.zeros(1, dtype=np.int64)
            while (done := guesser.lengths[sample]) < 8:
                chosen = np.array([text[done:done + 1 + counts[0]]])
                guesser.verify(np.array([sample]), 1 + counts, chosen)
                counts = guesser.guess(np.array([sample]))
                start = guesser.lengths[sample]
                if sample and start <= 5 < start + counts[0]:
                    assert guesser.ids[sample, 5] == text[5]
        guesser.finish()
        memory.share()


def test_contexts_differ_by_prompt_only_where_they_should():
    windows = np.array([[1, 2, 3, 4, 5, 6], [9, 9, 3, 4, 5, 6]])
    same, moved = ngrams.hash_contexts(windows, 1), ngrams.hash_contexts(windows, 2)
    assert [one for _, one in CONTEXTS] == (same[0] != moved[0]).tolist()
    assert [order > 4 for order, _ in CONTEXTS] == (same[0] != same[1]).tolist()


@pytest.mark.parametrize('cost, batch, guesses', [(1e-9, 1, False), (30, 3, True), (1, 3, False)])
def test_few_samples_are_guessed_for_where_passes_are_cheap(exact_head, prompts, passes, cost,
                                                            batch, guesses):
    """Three samples save three tokens a pass at most; finding them takes as long."""
    SharedPrefixRollout(pass_cost=cost)(exact_head, prompts[:batch], temperature=0,
                                        max_new_tokens=20)
    guesser, = passes
    assert (guesser.fed > guesser.turns) == guesses


@pytest.mark.parametrize('greedy', [False, True])
def test_passes_that_are_recorded_together(greedy):
    """As if each had been guessed for and verified: the same tokens, counts and observations."""
    rng = np.random.default_rng(0)
    draws = None if greedy else rng.random((6, 40))
    chosen = rng.integers(0, 9, (6, 30))
    chosen[[1, 4], [3, 17]] = 20  # ends
    chosen[2, 9] = -1  # not finite
    together, alone = (Guesser(GuessMemory(), [np.arange(5), np.arange(7)], 3, draws, 40, [20],
                               15, 1e-9) for _ in range(2))
    lengths = np.array([30, 4, 10, 0, 18, 30])  # the fourth one does not take part
    for start in range(0, 30, 10):
        going = np.nonzero(lengths > start)[0]
        kept = together.record(going, chosen[going, start:start + 10])
        assert kept.tolist() == (lengths[going] - start).clip(max=10).tolist()
    for step in range(30):
        going = np.nonzero(lengths > step)[0]
        assert not alone.guess(going).any()
        alone.verify(going, np.ones(len(going), dtype=np.int64), chosen[going, step:step + 1])
    for name in ('ids', 'lengths', 'chosen', 'passes', 'turns', 'fed'):
        assert np.array_equal(getattr(together, name), getattr(alone, name)), name
    for guesser in (together, alone):
        guesser._sort()
    assert len(together.seen) > 300 and np.array_equal(together.seen, alone.seen)


@pytest.mark.parametrize('most', [-1, 16])
def test_a_number_of_guesses_out_of_range_is_an_error(most):
    with pytest.raises(ValueError, match=rf'max_guess` should be in \[0, 15\].*but got {most}'):
        SharedPrefixRollout(max_guess=most)


def test_a_pass_cost_of_0_is_an_error():
    with pytest.raises(ValueError, match='pass_cost` should be above 0 or None, but got 0'):
        SharedPrefixRollout(pass_cost=0)
