# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A policy whose logits are NaN or infinite ends with an error, not with some tokens."""
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import decoding

GREEDY = dict(temperature=0, max_new_tokens=8)
DRAWN = dict(group_size=2, max_new_tokens=8, seed=1, top_p=0.9, top_k=50, temperature=0.7)


@pytest.fixture(params=[HFRollout, SharedPrefixRollout])
def engine(request):
    engine = request.param()
    if isinstance(engine, SharedPrefixRollout):
        engine.decoding.compared = True  # no further calls of the output head
    return engine


@pytest.fixture(params=[GREEDY, DRAWN], ids=['greedy', 'drawn'])
def options(request):
    return request.param


@pytest.fixture
def own_head(policy_config):
    return VLMReasoningHead(**policy_config).eval()


@pytest.fixture
def prompts(prompts):
    return [replace(prompt, vision=None) for prompt in prompts]


def layer(head, number=1):
    return head.model.model.language_model.layers[number]


@pytest.mark.promise('Training', 'Logits that are NaN or infinite',
                     'an error that names the first such layer, the prompt and what to do; the '
                     'exit status is not 0')
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_weight_that_is_not_finite(engine, own_head, prompts, options, value, tried):
    layer(own_head).mlp.down_proj.weight.data[3, 4] = value
    with pytest.raises(NonFiniteError) as found:
        engine(own_head, prompts, **options)
    name = 'model.language_model.layers.1.mlp.down_proj'
    text = str(found.value)
    assert text.startswith('The logits of token 1 of the response to prompt 0 of the batch')
    assert f'comes from `{name}` (Linear, float32), although its input is finite' in text
    assert f'weights are not finite: {name}.weight.' in text and found.value.prompt == 0
    assert not any(module._forward_hooks for module in layer(own_head).modules())
    tried('NaN and infinite weights, greedy and drawn, both engines')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_activations_that_leave_the_range_of_the_type(engine, policy_config, prompts, options,
                                                      dtype):
    head = VLMReasoningHead(**policy_config, dtype=dtype).eval()
    weight = layer(head).mlp.up_proj.weight
    weight.data.mul_((3e4 if dtype == 'float16' else 3e38) / weight.abs().max())
    assert weight.isfinite().all()
    with pytest.raises(NonFiniteError) as found:
        engine(head, prompts, **options)
    assert f'layers.1.mlp.down_proj` (Linear, {dtype})' in str(found.value) or (
        f'layers.1.mlp.up_proj` (Linear, {dtype})' in str(found.value))
    assert ("to 'float32' or 'bfloat16'" in str(found.value)) == (dtype == 'float16')
    assert ('training probably diverged' in str(found.value)) == (dtype == 'bfloat16')


def test_one_prompt_of_a_batch_is_named(engine, own_head, prompts, options):
    prompts[1] = replace(prompts[1], pixel_values=prompts[1].pixel_values * torch.nan)
    with pytest.raises(NonFiniteError, match='prompt 1 of the batch') as found:
        engine(own_head, prompts, **options)
    assert found.value.prompt == 1
    assert '`model.visual.patch_embed' in str(found.value)
    assert 'its input, which no other module computed, is not finite either' in str(found.value)
    engine(own_head, prompts[::2], **options)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_later_token_of_one_sample(engine, own_head, prompts, options, value):
    """By the call of the output head; the pass that is repeated for the message is sound."""
    calls = []
    rows = len(prompts) * options.get('group_size', 1)

    def spoil(module, args, output):
        calls.append(1)
        if len(calls) == 4:
            assert output.numel() == rows * output.shape[-1]  # no sample has ended
            output.view(rows, -1)[rows - 1, 7] = value

    handle = own_head.model.lm_head.register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match='token 4 of the response to prompt 2') as found:
        engine(own_head, prompts, **options)
    handle.remove()
    assert 'All outputs are finite when the pass is repeated' in str(found.value)


def test_logits_of_minus_infinity_are_no_fault(engine, own_head, prompts, options):
    expected = engine(own_head, prompts, **options)
    handle = own_head.model.lm_head.register_forward_hook(
        lambda module, args, output: output.index_fill(
            -1, torch.tensor(own_head.vision_token_ids), -torch.inf))
    found = engine(own_head, prompts, **options)
    handle.remove()
    assert found.ids.equal(expected.ids)


def test_a_sample_that_has_ended_may_have_any_logits(engine, own_head, prompts, monkeypatch):
    """It may stay in the batch after its end token."""
    ends = own_head.end_tokens[0]
    before = []

    def spoil(module, args, output):
        logits = output.view(3, -1)
        if before:
            logits[0] = torch.nan
        else:
            logits[0, ends] = 1e4
        before.append(1)

    handle = own_head.model.lm_head.register_forward_hook(spoil)
    monkeypatch.setattr(decoding, 'SHRINK_AT', 0)  # so that ours keeps it to the end
    monkeypatch.setattr(decoding.Decoding, 'full_grids', True)
    engine.max_guess = 0
    responses = engine(own_head, prompts, temperature=0, max_new_tokens=4)
    handle.remove()
    assert responses.mask.sum(dim=1).tolist() == [1, 4, 4]


def test_the_streamer_sees_no_such_token(engine, own_head, prompts):
    layer(own_head).mlp.down_proj.weight.data[3, 4] = torch.nan
    seen = []
    with (engine.streaming(lambda tokens: seen.append(tokens.tolist())),
          pytest.raises(NonFiniteError)):
        engine(own_head, prompts[:1], **GREEDY)
    assert len(seen) <= isinstance(engine, HFRollout)


class Reads(TorchDispatchMode):
    """Counts reads of a number or a tensor, for which a device is waited for."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options', [dict(temperature=0), dict(seed=1)], ids=['greedy', 'drawn'])
def test_a_pass_reads_one_tensor(own_head, prompts, options, monkeypatch):
    """What a further pass costs: the difference of two lengths."""
    counts, to_cpu = [], torch.Tensor.cpu
    for length in (4, 5):
        with Reads() as reads:
            def cpu(tensor):
                reads.number += 1
                return to_cpu(tensor)

            monkeypatch.setattr(torch.Tensor, 'cpu', cpu)
            SharedPrefixRollout(max_guess=0)(own_head, prompts, max_new_tokens=length, **options)
        counts.append(reads.number)
    assert counts[1] - counts[0] == 1
