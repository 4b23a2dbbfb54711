# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmdpad.models import HFRollout, VLMReasoningHead
from mmdpad.prompts import format_response
from mmdpad.toy import POLICY_WEIGHTS

QUESTIONS = ['the red circle', 'something you could roll']


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8, generator=generator)
            for _ in QUESTIONS]


@pytest.fixture(scope='module')
def responses(head, images):
    prompts = head.encode_prompts(images, QUESTIONS)
    return HFRollout()(head, prompts, group_size=3, max_new_tokens=20, seed=1)


def plain_logits(head, image, question, ids):
    """(T, V) logits of a response's tokens, by a forward of the model as transformers means it."""
    prompt = head.encode_prompts([image], [question])[0]
    full = torch.cat([prompt.input_ids, ids])[None]
    types = torch.cat([prompt.token_types, torch.zeros_like(ids).int()])[None]
    logits = head.model(
        input_ids=full, attention_mask=torch.ones_like(full), mm_token_type_ids=types,
        pixel_values=prompt.pixel_values, image_grid_thw=prompt.grid).logits
    return logits[0, -len(ids) - 1:-1].detach()


def test_log_probs_equal_a_plain_forward_of_each_response(head, images, responses):
    prompts = head.encode_prompts(images, QUESTIONS)
    temperature = 0.7
    logp, entropy = head.log_probs(prompts, responses.ids, responses.mask, temperature,
                                   entropy='grad')
    for row in range(6):
        length = int(responses.mask[row].sum())
        ids = responses.ids[row, :length]
        logits = plain_logits(head, images[row // 3], QUESTIONS[row // 3], ids) / temperature
        logits[:, head.vision_token_ids] = -torch.inf
        distribution = torch.distributions.Categorical(logits=logits)
        torch.testing.assert_close(logp[row, :length].detach(), distribution.log_prob(ids),
                                   rtol=1e-4, atol=1e-4)
        expected = -(distribution.probs * distribution.probs.clamp(min=1e-30).log()).sum(-1)
        torch.testing.assert_close(entropy[row, :length].detach(), expected, rtol=1e-4, atol=1e-4)
        assert not logp[row, length:].any() and not entropy[row, length:].any()


def test_every_parameter_gets_a_finite_gradient_and_checkpointing_changes_none(
        policy_config, images, responses):
    gradients = []
    for checkpointing in (False, True):
        head = VLMReasoningHead(**policy_config, gradient_checkpointing=checkpointing).train()
        prompts = head.encode_prompts(images, QUESTIONS)
        logp, entropy = head.log_probs(prompts, responses.ids, responses.mask, entropy='grad')
        (logp.sum() + entropy.sum()).backward()
        gradients.append({name: p.grad for name, p in head.named_parameters()})
    assert all(g is not None and g.isfinite().all() for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_given_responses_end_with_the_token_that_ends_a_rollout(head):
    ids, mask = head.encode_responses(['red', 'red circle', ''])
    red, circle = head.processor.tokenizer('red circle')['input_ids']
    end, pad = head.processor.tokenizer.convert_tokens_to_ids(['<|im_end|>', '<|endoftext|>'])
    assert ids.tolist() == [[red, end, pad], [red, circle, end], [end, pad, pad]]
    assert mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    assert head.end_tokens[0] == end


@pytest.mark.parametrize('token', ['<|im_end|>', '<|image_pad|>'])
def test_a_given_response_with_a_special_token_is_refused(head, token):
    with pytest.raises(ValueError, match=r'without special tokens, but got .*\|>. in .red'):
        head.encode_responses(['fine', f'red {token}'])


def test_supervised_loss_is_the_mean_cross_entropy_of_all_tokens(head, images):
    """By plain forwards of one response each: sum of -log p(token) / number of tokens."""
    texts = [format_response('it is red.', (1, 2, 30, 40), ((5, 6), (7, 8)), 'a star'), 'red']
    total, count = 0.0, 0
    for image, question, text in zip(images, QUESTIONS, texts, strict=True):
        ids = torch.tensor(head.processor.tokenizer(text + '<|im_end|>')['input_ids'])
        logits = plain_logits(head, image, question, ids)
        logits[:, head.vision_token_ids] = -torch.inf
        total += float(torch.nn.functional.cross_entropy(logits, ids, reduction='sum'))
        count += len(ids)
    loss, scalars = head.supervised_loss(head.encode_prompts(images, QUESTIONS), texts)
    assert loss.requires_grad and loss.item() == pytest.approx(total / count, rel=1e-4)
    assert scalars['perplexity'].item() == pytest.approx(math.exp(total / count), rel=1e-3)
    assert scalars['response_tokens'] == count / 2


def test_a_frozen_vision_tower_gets_none(policy_config):
    head = VLMReasoningHead(**policy_config, freeze_vision=True)
    frozen = {name for name, p in head.named_parameters() if not p.requires_grad}
    assert frozen and all('.visual.' in name for name in frozen)


def test_a_fixed_tower_sees_an_image_once_a_trained_one_every_time(policy_config, head, images):
    for policy, calls in ((head, 2), (VLMReasoningHead(**policy_config, freeze_vision=True), 1)):
        seen = []
        hook = policy.model.model.visual.register_forward_hook(
            lambda *_, seen=seen: seen.append(1))
        prompts = policy.encode_prompts(images, QUESTIONS)
        first, again = policy.encode_images(prompts), policy.encode_images(prompts)
        hook.remove()
        assert len(seen) == calls and (first[0].vision is again[0].vision) == (calls == 1)
        assert first[1].vision[0].equal(again[1].vision[0])
        assert [len(prompt.vision[0]) for prompt in first] == [49, 49]  # 7 x 7


def test_init_weights_leaves_the_weights_alone(head):
    before = {name: p.clone() for name, p in head.named_parameters()}
    head.init_weights()
    assert all(p.equal(before[name]) for name, p in head.named_parameters())


def test_count_tokens(head):
    assert head.count_tokens(None) is None and head.count_tokens('') == 0
    assert head.count_tokens('red circle') == 2
    assert head.count_tokens('red \ud800') == head.count_tokens('red \ufffd')


@pytest.mark.parametrize('name', ['./no/such/folder', '/no/such/folder', 'a/b/c'])
def test_a_missing_folder_is_a_clear_error(name):
    with pytest.raises(FileNotFoundError, match='does not exist; download'):
        VLMReasoningHead(name)


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    folder = tmp_path / 'policy'
    shutil.copytree(POLICY_WEIGHTS, folder)
    weights = load_file(folder / 'model.safetensors')
    name = next(name for name in weights if 'mlp' in name)
    rest = {k: v for k, v in weights.items() if k != name}
    for state, message in ((rest, '1 missing'),
                           (dict(weights, more=weights[name].clone()), '1 unexpected'),
                           ({**rest, name: weights[name][:1].clone()}, '1 of another shape')):
        save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})
        with pytest.raises(ValueError, match=f'do not fit the model: {message}'):
            VLMReasoningHead(str(folder))
    (folder / 'model.safetensors').unlink()
    with pytest.raises(ValueError, match='has no weights'):
        VLMReasoningHead(str(folder))


def test_a_template_without_question_is_refused_before_loading():
    with pytest.raises(ValueError, match='prompt_template'):
        VLMReasoningHead('does-not-matter', prompt_template='find it')


def test_the_folder_is_a_real_one():
    config = json.loads(Path(POLICY_WEIGHTS, 'config.json').read_text())
    assert config['architectures'] == ['Qwen2_5_VLForConditionalGeneration']


@pytest.mark.parametrize('number', [0, True, 2.5, '9'])
def test_a_wrong_number_of_prompt_tokens_is_named(policy_config, number):
    with pytest.raises(ValueError, match=f'`max_prompt_tokens` should be .*, but got {number!r}'):
        VLMReasoningHead(**policy_config, max_prompt_tokens=number)
