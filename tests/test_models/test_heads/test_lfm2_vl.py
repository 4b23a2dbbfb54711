# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""LFM2-VL with images of several tiles, against plain transformers."""
import re
from pathlib import Path

import pytest
import torch
from policy_folders import change_json, read_json
from torch.nn.functional import pad
from transformers import AutoConfig

from mmdpad.models import HFRollout, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.cost.fake_policy import Arithmetic, FakePolicy, ImageInputs, build_on_meta
from mmdpad.models.heads import check_prompt_lengths
from mmdpad.models.heads.packed_attention import PackedGroup
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.shared_prefix import PackedRow
from mmdpad.toy.policy_folder import make_policy_folder

TEMPLATE = 'find "{question}"'
# Four tiles and the thumbnail, three and the thumbnail, and an image that stays whole.
SIZES = [(128, 128), (64, 192), (64, 96)]
QUESTIONS = ['the red circle', 'something you could roll', 'x']
TEXTS = ['a red star', 'no', 'so it is', 'a', 'all of them', 'it']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """With small tiles: 64 pixels, so 4 image tokens."""
    folder = make_policy_folder(tmp_path_factory.mktemp('lfm2_vl'), 'lfm2_vl')
    change_json(Path(folder, 'preprocessor_config.json'), tile_size=64, min_image_tokens=1,
                max_image_tokens=6, max_pixels_tolerance=1.0)
    return folder


@pytest.fixture(scope='module')
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
            for size in SIZES]


@pytest.fixture(scope='module')
def exact(folder):
    return VLMReasoningHead(folder, TEMPLATE, dtype='float64').eval()


def processed(head, number, images):
    return dict(head.processor(text=[head.encoder.write(QUESTIONS[number])],
                               images=[images[number]], return_tensors='pt'))


def plain_log_probs(head, images, ids, mask):
    """Of each response alone, by transformers' own forward pass."""
    rows = []
    for row, own in enumerate(ids):
        values, own = processed(head, row // 2, images), own[mask[row]]
        values['input_ids'] = torch.cat([values['input_ids'], own[None]], dim=1)
        values['attention_mask'] = torch.ones_like(values['input_ids'])
        logits = head.model(**values).logits[0, -len(own) - 1:-1]
        logits = logits.index_fill(1, torch.tensor(head.vision_token_ids), -torch.inf)
        rows.append(pad(logits.log_softmax(-1).gather(1, own[:, None])[:, 0],
                        (0, ids.shape[1] - len(own))))
    return torch.stack(rows)


def gradients(head, logp):
    names, weights = zip(*head.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(logp.square().sum(), weights), strict=True))


@pytest.mark.parametrize('way', ['shared_prefix', 'sdpa'])
def test_log_probs_and_gradients_are_those_of_plain_transformers(folder, images, way):
    head = VLMReasoningHead(folder, TEMPLATE, dtype='float64', attn_implementation=way).eval()
    prompts = head.encode_prompts(images, QUESTIONS)
    assert [len(prompt.grid) for prompt in prompts] == [5, 4, 1]
    ids, mask = head.encode_responses(TEXTS)
    found, expected = head.log_probs(prompts, ids, mask)[0], plain_log_probs(
        head, images, ids, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    expected = gradients(head, expected)
    for name, gradient in gradients(head, found).items():
        # Those of biases of keys are zero.
        bound = 1e-5 * expected[name].norm() + 1e-12
        assert (gradient - expected[name]).norm() <= bound, name


def test_both_rollouts_and_generate_give_the_same_tokens(exact, images):
    prompts = exact.encode_prompts(images, QUESTIONS)
    sampled = dict(group_size=3, max_new_tokens=12, seed=1)
    ours, theirs = (engine(exact, prompts, **sampled)
                    for engine in (SharedPrefixRollout(), HFRollout()))
    assert ours.ids.equal(theirs.ids) and len({*map(tuple, ours.ids.tolist())}) == 9
    greedy = SharedPrefixRollout()(exact, prompts, temperature=0, max_new_tokens=12)
    for number in range(3):
        values = processed(exact, number, images)
        plain = exact.model.generate(**values, do_sample=False, max_new_tokens=12,
                                     suppress_tokens=exact.vision_token_ids)
        own = greedy.ids[number, greedy.mask[number]]
        assert own.tolist() == plain[0, values['input_ids'].shape[1]:].tolist()


def test_the_model_sees_the_pixels_of_the_model_image(exact, images):
    """Tiles are its parts, row by row, and the patches of a tile too."""
    for image, (rows, columns) in zip(images, [(2, 2), (1, 3), (1, 1)], strict=True):
        prompt = exact.encoder(image, 'x')
        height, width = (prompt.grid[0] * 16).tolist()
        whole = prompt.pixel_values[:rows * columns * height * width // 256]
        whole = whole.view(rows, columns, height // 16, width // 16, 16, 16, 3)
        whole = whole.permute(6, 0, 2, 4, 1, 3, 5).reshape(image.shape)
        torch.testing.assert_close(whole, image / 127.5 - 1)


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """An encoder with the published settings of the processor."""
    folder = make_policy_folder(tmp_path_factory.mktemp('published'), 'lfm2_vl')
    return PromptEncoder(folder, TEMPLATE, 5000, 'relative_1')


@pytest.mark.parametrize('size, kept, tokens', [
    ((256, 256), (256, 256), 64), ((96, 64), (320, 224), 70), ((512, 512), (512, 512), 256),
    ((704, 352), (704, 352), 242), ((1024, 512), (704, 352), 242),  # not large enough for tiles
    ((840, 840), (1024, 1024), 1280), ((1024, 1024), (1024, 1024), 1280),
    ((512, 1536), (512, 1536), 3 * 256 + 9 * 27), ((1536, 1024), (1536, 1024), 6 * 256 + 19 * 13),
    ((2048, 2048), (1536, 1536), 2560), ((600, 5000), (512, 4096), 8 * 256 + 5 * 46)])
def test_sizes_are_those_of_the_processor(published, size, kept, tokens):
    """Of an image by itself if the text has no marks of tiles, else of rows and columns of 512."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    text = published.write('x')
    values = published.processor(text=[text], images=[image], return_tensors='pt')
    marks = re.findall(r'<\|img_row_(\d+)_col_(\d+)\|>',
                       published.processor.tokenizer.decode(values['input_ids'][0]))
    expected = tuple(512 * int(number) for number in marks[-1]) if marks else tuple(
        (16 * values['spatial_shapes'][0]).tolist())
    assert published.kept_size(image) == expected == kept
    assert int((values['input_ids'] == published.processor.image_token_id).sum()) == tokens
    problems = check_prompt_lengths(published, ['x'], [size[::-1]])
    if size == kept:
        assert not problems and len(published(image, 'x')) == values['input_ids'].shape[1]
    else:
        assert f'becomes {kept}; set `ModelImageResize(size={kept[::-1]})`' in problems[0]
        assert check_prompt_lengths(published, ['x'], [kept[::-1]]) == []


@pytest.mark.parametrize('size', [(512, 512), (1024, 1024), (840, 600)])
def test_blank_prompts_are_as_large_as_real_ones(published, size):
    config = AutoConfig.from_pretrained(published.source)
    blank = published.family.blank_prompt(config, *size)
    kept = published.kept_size(torch.zeros(3, *size, dtype=torch.uint8))
    real = published(torch.zeros(3, *kept, dtype=torch.uint8), 'x')
    assert blank.grid.equal(real.grid) and blank.pixel_values.shape == real.pixel_values.shape
    assert int(blank.token_types.sum()) == len(blank) == int(real.token_types.sum())


def test_convolutions_with_a_bias_are_refused(tmp_path):
    folder, config = make_policy_folder(tmp_path, 'lfm2_vl'), tmp_path / 'config.json'
    change_json(config, text_config=read_json(config)['text_config'] | dict(conv_bias=True))
    with pytest.raises(ValueError, match='`conv_bias` in config.json of LFM2-VL should be false'):
        VLMReasoningHead(folder)


def test_estimates_run_tower_and_layers_on_fake_tensors(published):
    config = AutoConfig.from_pretrained(published.source)
    policy = FakePolicy(build_on_meta(config), Arithmetic(shared=True))
    image = ImageInputs.of(published.family.blank_prompt(config, 1024, 1024))
    (features, ) = policy.see(image)
    assert features.shape == (1280, 32)
    row = PackedRow([PackedGroup(9, [3, 4])], torch.device('cpu'))
    states = policy.read(policy.empty(1, 16, 32), layout=row).last_hidden_state
    assert states.shape == (1, 16, 32) and row.reached == {0, 1}
