# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiny open_clip models in the formats in which real ones come."""
import json
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip import factory

VISION = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
TEXT = dict(context_length=12, vocab_size=49408, width=32, heads=2, layers=1)
PREPROCESS = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], interpolation='bicubic',
                  resize_mode='squash', size=[32, 32])


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """``folder``: a local-dir with CLIP's own tokenizer; ``hf_folder``: one with a Hugging Face
    tokenizer of seven words; ``name`` and ``file``: an architecture and a state dict for it."""
    root = tmp_path_factory.mktemp('open_clip')
    config = dict(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    name = 'mmdpad-test-tiny'
    factory._MODEL_CONFIGS[name] = config
    torch.manual_seed(0)
    state = open_clip.create_model(name).state_dict()
    torch.save(state, root / 'tiny.pt')
    folder = _save_folder(root / 'clip', config, state)

    hf_config = dict(config, text_cfg=dict(TEXT, vocab_size=10, context_length=8,
                                           hf_tokenizer_name='kept-in-the-folder',
                                           tokenizer_kwargs=dict(clean='lower')))
    torch.manual_seed(1)
    hf_state = open_clip.CLIP(16, VISION, {k: v for k, v in hf_config['text_cfg'].items()
                                           if k not in ('tokenizer_kwargs',)}).state_dict()
    hf_folder = _save_folder(root / 'hf', hf_config, hf_state)
    _word_tokenizer().save_pretrained(hf_folder)
    yield SimpleNamespace(root=root, name=name, config=config, state=state,
                          folder=str(folder), hf_folder=str(hf_folder), file=str(root / 'tiny.pt'))
    del factory._MODEL_CONFIGS[name]


def _save_folder(folder, config, state):
    folder.mkdir()
    (folder / 'open_clip_config.json').write_text(
        json.dumps(dict(model_cfg=config, preprocess_cfg=PREPROCESS)))
    torch.save(state, folder / 'open_clip_pytorch_model.bin')
    return folder


@pytest.fixture(scope='session')
def word_tokenizer():
    """A Hugging Face tokenizer of seven words."""
    return _word_tokenizer()


def _word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    words = ['<pad>', '<unk>', '<s>', '</s>', 'a', 'red', 'blue', 'apple', 'left', 'of']
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A </s>', special_tokens=[('<s>', 2), ('</s>', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token='<pad>', unk_token='<unk>',
                                   bos_token='<s>', eos_token='</s>')
