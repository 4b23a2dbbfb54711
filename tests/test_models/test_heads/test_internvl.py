# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiles instead of patches, and a projector behind the vision tower."""
import pytest
import torch
import transformers
from policy_folders import change_json, read_json, shrink_tiles

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads import check_prompt_lengths, vlm_reasoning_head
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.policy_source import check_policy
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.segmentors.reference import frozen_copy
from mmdpad.toy.policy_folder import make_policy_folder

TEMPLATE = 'find "{question}"'
TEXTS = ['a red star', 'no']


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """A folder with tiles of 448 pixels."""
    return make_policy_folder(tmp_path_factory.mktemp('published'), 'internvl')


@pytest.fixture(scope='module')
def encoder(published):
    return PromptEncoder(published, TEMPLATE, 10**4, 'relative_1000')


@pytest.fixture
def folder(tmp_path):
    """A folder with small tiles."""
    make_policy_folder(tmp_path, 'internvl')
    return shrink_tiles(tmp_path)


def picture(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(height + width))


def gradients(head):
    return {name: p.grad for name, p in head.named_parameters() if p.grad is not None}


# (rows, columns) -> tiles. From 8 tiles on, some sizes become another number.
TILES = {(1, 1): 1, (1, 2): 3, (3, 1): 4, (2, 2): 5, (2, 3): 7, (3, 2): 7, (3, 3): 10, (3, 4): 13,
         (1, 12): 13}


@pytest.mark.parametrize('rows, columns', TILES)
def test_tiles_are_the_image_and_a_thumbnail(encoder, rows, columns):
    image, tiles = picture(448 * rows, 448 * columns), TILES[rows, columns]
    prompt = encoder(image, 'the red circle')
    assert prompt.pixel_values.shape == (tiles, 3, 448, 448)
    assert prompt.grid.tolist() == [[1, rows, columns]]
    assert int(prompt.token_types.sum()) == 256 * tiles
    assert encoder.kept_size(image) == image.shape[1:]
    images = encoder.processor.image_processor
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (images.image_mean, images.image_std))
    parts = prompt.pixel_values[:rows * columns].unflatten(0, (rows, columns))
    joined = parts.permute(2, 0, 3, 1, 4).reshape(image.shape)
    torch.testing.assert_close(joined, (image / 255 - mean) / std, rtol=0, atol=1e-5)


@pytest.mark.parametrize('width, height', [
    (840, 840), (640, 480), (480, 640), (1920, 1080), (300, 3000), (449, 447), (5000, 200),
    (64, 64), (896, 897), (1344, 896), (1000, 1499), (2000, 2000)])
def test_the_length_of_a_prompt_is_the_processors(encoder, width, height):
    text = len(encoder(picture(448, 448), 'the red circle')) - 256
    counted = encoder.processor._get_num_multimodal_tokens([(height, width)])
    kept = encoder.kept_size(picture(height, width))
    prompt = encoder(picture(*kept), 'the red circle')
    (tokens, ) = counted['num_image_tokens']
    assert len(prompt) == text + tokens - 2  # a beginning and an end of the image
    assert check_prompt_lengths(encoder, ['the red circle'], [(width, height)]) == (
        [] if kept == (height, width) else [
            f'A model image should have a size that the processor keeps, but (height, width) = '
            f'{(height, width)} becomes {kept}; set `ModelImageResize(size={kept[::-1]})` (width, '
            f'height), which it keeps'])


def test_fewer_tiles_by_the_processors_settings(tmp_path):
    folder = make_policy_folder(tmp_path, 'internvl')
    change_json(tmp_path / 'preprocessor_config.json', max_patches=3)
    encoder = PromptEncoder(folder, TEMPLATE, 10**4)
    (problem, ) = check_prompt_lengths(encoder, ['star'], [(896, 896), (448, 896)])
    assert '(896, 896) becomes (448, 448)' in problem


def test_the_published_settings_say_no_tiles_but_the_processor_makes_them(published, encoder):
    assert not encoder.processor.image_processor.crop_to_patches
    assert len(encoder(picture(896, 896), 'star').pixel_values) == 5


@pytest.mark.parametrize('question', ['<IMG_CONTEXT>', 'the <video>'])
def test_a_question_with_a_vision_token_is_refused(encoder, question):
    with pytest.raises(ValueError, match='is refused by the processor of '):
        encoder(picture(448, 448), question)


def test_marks_around_a_box_are_not_text(published):
    head = VLMReasoningHead(published, TEMPLATE)
    ids = head.processor.tokenizer('a<box>b</box><ref>c</ref>', return_tensors='pt')['input_ids']
    assert head.decode(ids) == ['abc']


def test_a_system_turn_of_the_chat_template_is_in_the_prompt(tmp_path):
    """As for the thinking mode of InternVL 3.5."""
    folder = make_policy_folder(tmp_path, 'internvl')
    path = tmp_path / 'chat_template.jinja'
    turn = '<|im_start|>system\nReason step by step.<|im_end|>\n'
    path.write_text(turn + path.read_text())
    encoder = PromptEncoder(folder, TEMPLATE, 10**4)
    assert encoder.write('star').startswith(f'{turn}<|im_start|>user\n<IMG_CONTEXT>\nfind "star"')
    assert encoder.chat.opened == '' and encoder.chat.lead == ''


def test_the_projector_is_frozen_with_the_tower(folder):
    """Otherwise it would be left out of the update in silence: features are encoded once."""
    head = VLMReasoningHead(folder, TEMPLATE, freeze_vision=True).train()
    assert head.vision_is_fixed
    head.supervised_loss(head.encode_prompts([picture(56, 56)], ['star']), TEXTS[:1])[0].backward()
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert gradients(head).keys() == trained
    assert not any('multi_modal_projector' in name or 'vision_tower' in name for name in trained)


def test_an_adapter_in_the_projector_is_trained(folder):
    pytest.importorskip('peft')
    lora = dict(r=2, target_modules=['linear_1', 'self_attn.q_proj'])
    head = VLMReasoningHead(folder, TEMPLATE, lora=lora).train()
    assert not head.vision_is_fixed
    prompts = head.encode_prompts([picture(56, 56)], ['star'])
    head.supervised_loss(prompts, TEXTS[:1])[0].backward()
    assert gradients(head).keys() == head.adapter_keys
    assert any('multi_modal_projector.linear_1' in name for name in head.adapter_keys)
    with torch.no_grad():
        for name in head.adapter_keys:
            head.get_parameter(name).normal_(std=0.2)
    rolled = SharedPrefixRollout(records_log_probs=True)(head.eval(), prompts, group_size=2,
                                                         max_new_tokens=6, seed=0)
    with torch.no_grad():
        expected = head.log_probs(prompts, rolled.ids, rolled.mask)[0]
    torch.testing.assert_close(rolled.logp, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match='reach the vision tower with `freeze_vision=True`'):
        VLMReasoningHead(folder, TEMPLATE, lora=lora, freeze_vision=True)


def test_what_encodes_images_is_found_wherever_it_is(folder):
    head = VLMReasoningHead(folder, TEMPLATE)
    assert list(head.family.vision_modules(head.model)) == ['model.vision_tower',
                                                            'model.multi_modal_projector']
    qwen = FAMILIES['qwen3_vl']
    assert qwen.is_vision('model.visual.merger') and not qwen.is_vision('lm_head')
    assert not qwen.is_vision('model.language_model') and not qwen.is_vision('lm_head.weight')


def test_the_reference_shares_what_is_not_trained(folder):
    head = VLMReasoningHead(folder, TEMPLATE, freeze_vision=True)
    copy, model = frozen_copy(head).model.model, head.model.model
    assert copy.multi_modal_projector is model.multi_modal_projector
    assert copy.vision_tower is model.vision_tower
    assert copy.language_model is not model.language_model
    trained = VLMReasoningHead(folder, TEMPLATE)
    assert frozen_copy(trained).model.model.multi_modal_projector is not (
        trained.model.model.multi_modal_projector)


def test_the_language_model_alone_is_quantized(folder):
    pytest.importorskip('peft')
    pytest.importorskip('bitsandbytes')
    _, settings = check_policy(dict(pretrained=folder, lora=dict(r=2),
                                    quantization=dict(load_in_4bit=True)))
    assert settings.llm_int8_skip_modules == ['model.vision_tower', 'model.multi_modal_projector',
                                              'lm_head']


def count_tiles(head):
    seen = []
    head.family.tower(head.model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs['pixel_values'])), with_kwargs=True)
    return seen


def test_a_group_shares_its_image(folder):
    head = VLMReasoningHead(folder, TEMPLATE, freeze_vision=True)
    seen, prompts = count_tiles(head), head.encode_prompts([picture(56, 112)], ['star'])
    SharedPrefixRollout()(head, prompts, group_size=3, max_new_tokens=2)
    head.log_probs(prompts, *head.encode_responses(TEXTS))
    assert seen == [3]
    assert prompts[0].vision[0].shape == (3 * 4, 32)


def test_a_cpu_encodes_as_many_tiles_as_fit_its_cache(folder, monkeypatch):
    head = VLMReasoningHead(folder, TEMPLATE)
    monkeypatch.setattr(vlm_reasoning_head, 'CPU_PATCHES', 4 * 1024)  # of a tile of 448 pixels
    prompts = head.encode_prompts([picture(56, 56), picture(56, 112), picture(112, 112)],
                                  ['a', 'b', 'c'])
    together = head.encode_images(prompts)
    seen = count_tiles(head)
    with torch.no_grad():
        parts = head.encode_images(prompts)
    assert seen == [4, 5]
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(one.vision[0], other.vision[0])


def test_another_language_model(tmp_path):
    """InternVL 3 has Qwen2.5's, whose queries, keys and values have a bias."""
    folder = shrink_tiles(make_and_change(tmp_path, model_type='qwen2'))
    head = VLMReasoningHead(folder, TEMPLATE, dtype='float64').eval()
    assert head.model.model.language_model.layers[0].self_attn.q_proj.bias is not None
    prompts = head.encode_prompts([picture(56, 56), picture(112, 56)], ['star', 'a moon'])
    rolled = SharedPrefixRollout(records_log_probs=True)(head, prompts, group_size=2,
                                                         max_new_tokens=6, seed=0)
    plain = VLMReasoningHead(folder, TEMPLATE, dtype='float64', attn_implementation='sdpa').eval()
    plain.load_state_dict(head.state_dict())
    with torch.no_grad():
        expected = plain.log_probs(prompts, rolled.ids, rolled.mask)[0]
    torch.testing.assert_close(rolled.logp, expected.float(), rtol=0, atol=1e-5)


def make_and_change(path, **entries):
    """A folder with another language model."""
    make_policy_folder(path, 'internvl')
    text = read_json(path / 'config.json')['text_config']
    for name in ('layer_types', 'head_dim', 'attention_bias'):
        text.pop(name)
    change_json(path / 'config.json', text_config=text | entries)
    config = transformers.AutoConfig.from_pretrained(path)
    torch.manual_seed(0)
    model = transformers.InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    model.save_pretrained(path)
    return path
