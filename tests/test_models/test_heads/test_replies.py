# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A conversation with further images against transformers' own processor and forward pass."""
import pytest
import torch

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads import replicated_prefix
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.replies import ReplyEncoder
from mmdpad.toy.policy_folder import make_policy_folder

REPLY = 'This is that part of the image. Now answer.'
SHAPES = {8: [(112, 112)] * 2, 14: [(56, 84), (84, 112)], 16: [(64, 96), (96, 64)]}


@pytest.fixture(params=['qwen2_5_vl', 'qwen2_vl', 'qwen3_vl'])
def config(request, policy_config, tmp_path):
    """Config of a policy head of one of the families."""
    if request.param == 'qwen3_vl':
        return dict(policy_config, pretrained=request.getfixturevalue('qwen3_folder'))
    return dict(policy_config, pretrained=make_policy_folder(tmp_path, request.param))


def picture(shape, seed):
    return torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(seed),
                         dtype=torch.uint8)


def talk(head):
    """A prompt; four responses, of which the second has a reply with an image, the third replies
    with text, with an image and with another, and the last nothing after its first token."""
    shapes = SHAPES[head.processor.image_processor.patch_size]
    prompt, = head.encode_prompts([picture(shapes[0], 0)], ['the star'])
    encode = ReplyEncoder(head.encoder)
    crops = [encode(REPLY, picture(shapes[n % 2], n)) for n in (1, 2, 3)]
    generator, end = torch.Generator().manual_seed(1), torch.tensor(head.end_tokens[:1])

    def turn(length):
        return torch.cat([torch.randint(20, (length, ), generator=generator), end])

    parts = [[turn(6)], [turn(3), crops[0], turn(4)],
             [turn(1), encode('Nothing is shown.'), turn(2), crops[1], turn(5), crops[2], turn(1)],
             [end]]
    ids = [torch.cat([part if isinstance(part, torch.Tensor) else part.input_ids
                      for part in row]) for row in parts]
    mask = [torch.cat([torch.full((len(part), ), isinstance(part, torch.Tensor))
                       for part in row]) for row in parts]
    pad = torch.nn.utils.rnn.pad_sequence
    return (prompt, parts, pad(ids, True, head.pad_token), pad(mask, True),
            [[], crops[:1], crops[1:], []])


def started(prompt, row):
    """The prompt of the last turn of a conversation, and that turn."""
    for response, reply in zip(row[:-1:2], row[1::2], strict=True):
        prompt = prompt.followed_by(response, reply)
    return prompt, row[-1]


def pixels_of(prompt):
    """Those of all its images, and their grids, as a processor returns them."""
    return [torch.cat([getattr(part, name) for part in prompt.parts])
            for name in ('pixel_values', 'grid')]


def plain_log_probs(head, prompt, ids):
    """(R,) by a forward of the model as transformers means it."""
    full = torch.cat([prompt.input_ids, ids])[None]
    types = torch.cat([prompt.token_types, torch.zeros_like(ids).int()])[None]
    pixels, grids = pixels_of(prompt)
    logits = head.model(
        input_ids=full, attention_mask=torch.ones_like(full), mm_token_type_ids=types,
        pixel_values=pixels, image_grid_thw=grids).logits[0, -len(ids) - 1:-1]
    logits[:, head.vision_token_ids] = -torch.inf
    return logits.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]


def test_tokens_and_pixels_are_those_of_the_rendered_conversation(config):
    head = VLMReasoningHead(**config)
    shapes = SHAPES[head.processor.image_processor.patch_size]
    images = [picture(shape, n) for n, shape in enumerate(shapes)]
    prompt, = head.encode_prompts(images[:1], ['the star'])
    response = torch.tensor(head.encoder.responses.encode('<think>small</think>'))
    found = prompt.followed_by(response, ReplyEncoder(head.encoder)(REPLY, images[1]))
    image = dict(type='image')
    text = head.encoder.chat.render([
        *head.encoder._messages('the star'),
        dict(role='assistant', content=[dict(type='text', text='<think>small</think>')]),
        dict(role='user', content=[image, dict(type='text', text=REPLY)])])
    expected = head.processor(text=[text], images=images, return_mm_token_type_ids=True,
                              return_tensors='pt')
    assert found.input_ids.equal(expected['input_ids'][0])
    assert found.token_types.equal(expected['mm_token_type_ids'][0].to(found.token_types))
    pixels, grids = pixels_of(found)
    assert pixels.equal(expected['pixel_values'])
    assert grids.equal(expected['image_grid_thw']) and len(grids) == 2
    assert found.parts[0] is prompt, 'no copies of pixels or features'
    told = prompt.followed_by(response, ReplyEncoder(head.encoder)('No.'))
    assert told.parts == (prompt, )
    assert head.processor.tokenizer.decode(told.input_ids).count('No.') == 1


@torch.no_grad()
def test_one_pass_gives_the_log_probs_of_each_turn_in_float64(config, lift):
    head = VLMReasoningHead(**config, dtype='float64').eval()
    lift(head)
    prompt, parts, ids, mask, replies = talk(head)
    logp, entropy = head.log_probs([prompt], ids, mask, 1.0, replies, 'no_grad')
    assert not logp[~mask].any() and not entropy[~mask].any() and logp[mask].all()
    for n, row in enumerate(parts):
        for turns in range(0, len(row), 2):
            before, turn = started(prompt, row[:turns + 1])
            place = len(before) - len(prompt)
            found = logp[n, place:place + len(turn)]
            torch.testing.assert_close(found, plain_log_probs(head, before, turn), rtol=0,
                                       atol=1e-11)
            alone, _ = head.log_probs([before], turn[None], torch.ones(1, len(turn)).bool())
            torch.testing.assert_close(found, alone[0], rtol=0, atol=1e-11)


def test_gradients_equal_those_without_a_shared_prefix(config, lift):
    head = VLMReasoningHead(**config, dtype='float64').train()
    lift(head)
    prompt, _, ids, mask, replies = talk(head)
    other, = head.encode_prompts([prompt.image.flip(1)], ['something to roll'])
    ids, mask, replies = ids.repeat(2, 1), mask.repeat(2, 1), [*replies, *replies]
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(2)).double()

    def gradients():
        head.zero_grad()
        logp, _ = head.log_probs([prompt, other], ids, mask, 1.3, replies)
        (logp * weights).sum().backward()
        return logp.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}

    logp, shared = gradients()
    head.model.set_attn_implementation('sdpa')
    head._response_states = replicated_prefix.response_states
    expected, plain = gradients()
    torch.testing.assert_close(logp, expected, rtol=0, atol=1e-11)
    assert max(((shared[name] - plain[name]).norm() / plain[name].norm()).item()
               for name in plain) < 1e-11


@torch.no_grad()
def test_a_fixed_tower_encodes_each_image_once(policy_config, monkeypatch):
    head = VLMReasoningHead(**policy_config, freeze_vision=True).eval()
    prompt, parts, ids, mask, replies = talk(head)
    expected, _ = head.log_probs([prompt], ids, mask, 1.0, replies)
    seen = []
    monkeypatch.setattr(type(head.family), 'encode_images', lambda *args: seen.append(args))
    again, _ = head.log_probs([prompt], ids, mask, 1.0, replies)
    assert again.equal(expected)
    before, turn = started(prompt, parts[2])  # a started conversation keeps the features
    assert before.first is prompt and list(before.replies) == replies[2]
    assert before.images == (prompt.image, *(reply.image for reply in replies[2]))
    logp, _ = head.log_probs([before], turn[None], torch.ones(1, len(turn)).bool())
    assert not seen
    torch.testing.assert_close(logp[0], expected[2, mask[2]][-len(turn):], rtol=0, atol=1e-4)


def test_an_image_that_the_processor_would_resize_is_refused(head):
    with pytest.raises(ValueError, match=r'\(120, 113\) becomes .*`size` of crops'):
        ReplyEncoder(head.encoder)(REPLY, torch.zeros(3, 120, 113, dtype=torch.uint8))


@pytest.mark.parametrize('family, name', [('glm4v', 'GLM-4.1V'), ('internvl', 'InternVL'),
                                          ('qwen3_5', 'Qwen3.5'), ('lfm2_vl', 'LFM2-VL')])
def test_families_that_were_not_tried_are_refused(family, name, tmp_path, policy_config):
    encoder = PromptEncoder(make_policy_folder(tmp_path, family), 'default', 4000)
    with pytest.raises(ValueError, match=f'tried with images in replies .* but got {name}; use'):
        ReplyEncoder(encoder)


@pytest.mark.parametrize('template', [
    # no added token ends a turn; and a reply is left out
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}\n"
    "{% endfor %}assistant: ",
    "{% for m in messages[:2] %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"])
def test_a_chat_template_without_such_turns_is_refused(template, tmp_path):
    folder = make_policy_folder(tmp_path, 'qwen2_5_vl')
    (tmp_path / 'chat_template.jinja').write_text(template)
    with pytest.raises(ValueError, match='should end a turn of the assistant by an added token'):
        ReplyEncoder(PromptEncoder(folder, 'default', 4000))
