# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import contextlib
import json
import pickle
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from exploits import WRITERS, assert_real, write_checkpoint
from open_clip import factory
from transformers import dynamic_module_utils

from mmdpad.models.discriminators import open_clip_loading
from mmdpad.models.discriminators.open_clip_loading import load_open_clip


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_state_dict_for_a_registered_architecture(tiny):
    model, preprocess, tokenizer = load_open_clip(tiny.name, tiny.file)
    assert same(model, tiny.state)
    assert tokenizer.context_length == 12


def test_a_local_folder_with_its_own_preprocessing(tiny):
    model, preprocess, _ = load_open_clip(f'local-dir:{tiny.folder}', 'ignored')
    assert same(model, tiny.state)
    assert open_clip.get_model_preprocess_cfg(model)['resize_mode'] == 'squash'


def test_random_weights_are_announced_where_they_stay(tiny, caplog):
    # open_clip said so of every model that our loader fills right after, too.
    load_open_clip(f'local-dir:{tiny.folder}', None)
    assert 'randomly' not in caplog.text
    load_open_clip(tiny.name, None, allow_random=True)
    assert 'randomly' in caplog.text


def test_a_local_folder_with_a_hugging_face_tokenizer(tiny):
    _, _, tokenizer = load_open_clip(f'local-dir:{tiny.hf_folder}', None)
    assert tokenizer(['A red apple']).tolist() == [[2, 4, 5, 7, 3, 0, 0, 0]]


@pytest.mark.parametrize('args, error, match', [
    (('ViT-B-23', 'openai'), ValueError, r"close ones: ViT-B-32.*but got 'ViT-B-23'"),
    (('ViT-B-32', None), ValueError, 'openai, laion.*allow_random'),
    (('ViT-B-32', 'opnai'), FileNotFoundError, "tag of ViT-B-32 .*but got 'opnai'"),
    (('local-dir:no/such', None), FileNotFoundError, "'no/such', which does not exist"),
    (('ViT-B-32', 'openai', 'fp8'), ValueError, "but got 'fp8'"),
])
def test_what_is_not_there_is_named(args, error, match):
    with pytest.raises(error, match=match):
        load_open_clip(*args)


def test_folders_that_are_not_complete(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match='no open_clip_config.json'):
        load_open_clip(f'local-dir:{tmp_path}', None)
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(dict(model_cfg=tiny.config)))
    with pytest.raises(FileNotFoundError, match='no weights file'):
        load_open_clip(f'local-dir:{tmp_path}', None)
    load_open_clip(f'local-dir:{tmp_path}', None, allow_random=True)
    (tmp_path / 'open_clip_config.json').write_text('{"model_cfg": ')
    with pytest.raises(RuntimeError, match='Could not load valid config'):
        load_open_clip(f'local-dir:{tmp_path}', None, allow_random=True)


class Code:
    """A pickle that would leave a file behind if it were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('kind', ['missing', 'shape', 'garbage', 'list', 'empty', 'code',
                                  'safetensors'])
def test_files_that_do_not_fit(tiny, tmp_path, kind):
    path = tmp_path / ('bad.safetensors' if kind == 'safetensors' else 'bad.pt')
    state = dict(tiny.state)
    if kind == 'missing':
        del state['text_projection']
        torch.save(state, path)
    elif kind == 'shape':
        torch.save(dict(state, text_projection=torch.zeros(3, 3)), path)
    elif kind == 'code':
        path.write_bytes(pickle.dumps(Code(str(tmp_path / 'executed')), protocol=2))
    elif kind in ('garbage', 'safetensors'):
        path.write_bytes(b'<html>404</html>')
    else:
        torch.save([1] if kind == 'list' else {}, path)
    with pytest.raises(ValueError, match=r"bad\.(pt|safetensors)'.* names (of|with)") as caught:
        load_open_clip(tiny.name, str(path))
    assert 'should hold a state dict' in str(caught.value)
    assert {'missing': '1 missing (text_projection)',
            'shape': '1 of another shape (text_projection (3, 3) instead of (32, 16))'
            }.get(kind, '') in str(caught.value)
    assert not (tmp_path / 'executed').exists()


def test_a_hub_out_of_reach_names_the_way_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError('no route to host')
    monkeypatch.setattr(factory, 'download_pretrained', unreachable)
    with pytest.raises(RuntimeError, match='no route to host.*set `pretrained` to the file'):
        load_open_clip('ViT-B-32', 'openai')


@pytest.mark.parametrize('tag, quick', [('openai', True), ('laion2b_s34b_b79k', False)])
def test_the_activation_is_the_one_the_tag_was_trained_with(monkeypatch, tag, quick):
    """open_clip itself only warns; GELU in place of QuickGELU shifts every similarity."""
    seen = {}

    def create(name, pretrained, **kwargs):
        seen.update(kwargs)
        return None, None, open_clip.image_transform(32, False)
    monkeypatch.setattr(open_clip, 'create_model_and_transforms', create)
    load_open_clip('ViT-B-32', tag)
    assert seen['force_quick_gelu'] is quick


def test_a_tokenizer_out_of_reach_names_the_way_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError('no route to host')
    monkeypatch.setattr('transformers.AutoTokenizer.from_pretrained', unreachable)
    with pytest.raises(RuntimeError, match="SigLIP2'.*no route to host.*local-dir:PATH.*tokenizer"):
        load_open_clip('ViT-B-16-SigLIP2', None, allow_random=True)


def is_quick(model):
    return any(isinstance(m, open_clip.transformer.QuickGELU) for m in model.modules())


@pytest.mark.parametrize('folder, name, entry', [
    ('.', 'plain.pt', 'input_resolution'), ('.', 'plain.pt', 'positional_embedding_res'),
    ('.', 'ViT-B-32.pt', None), ('.', 'b32_400m.pt', None), ('.', 'clip_openai.pt', None),
    ('DFN2B-CLIP-ViT-B-16', 'plain.pt', None), ('MetaCLIP', 'plain.pt', None)])
def test_weights_that_were_trained_with_another_activation(tiny, tmp_path, folder, name, entry):
    path = tmp_path / folder / name
    path.parent.mkdir(exist_ok=True)
    state = dict(tiny.state)
    if entry:
        state[entry] = tiny.state['positional_embedding'].clone()
    torch.save(state, path)
    with pytest.raises(ValueError, match="QuickGELU.*'mmdpad-test-tiny-quickgelu' or `quick_gelu"):
        load_open_clip(tiny.name, str(path))
    for quick in (True, False):
        model, _, _ = load_open_clip(tiny.name, str(path), quick_gelu=quick)
        assert is_quick(model) is quick and same(model, tiny.state)


@pytest.mark.parametrize('path', ['MobileCLIP2-S2/mobileclip2_dfndr2b.pt', 'laion/plain.pt'])
def test_weights_that_do_not_tell_their_activation(tiny, tmp_path, path, monkeypatch):
    logged = []
    monkeypatch.setattr(open_clip_loading, 'print_log', lambda text, **_: logged.append(text))
    (tmp_path / path).parent.mkdir()
    torch.save(tiny.state, tmp_path / path)
    assert not is_quick(load_open_clip(tiny.name, str(tmp_path / path))[0])
    assert len(logged) == 1 and 'uses GELU; the file does not say whether' in logged[0]
    load_open_clip(tiny.name, str(tmp_path / path), quick_gelu=True)
    assert len(logged) == 2 and logged[1].endswith('uses QuickGELU')


def test_a_folder_and_a_name_tell_their_activation(tiny, tmp_path):
    config = dict(tiny.config, quick_gelu=True)
    (tmp_path / 'open_clip_config.json').write_text(json.dumps(dict(model_cfg=config)))
    torch.save(tiny.state, tmp_path / 'open_clip_pytorch_model.bin')
    assert is_quick(load_open_clip(f'local-dir:{tmp_path}', None)[0])
    assert not is_quick(load_open_clip(f'local-dir:{tmp_path}', None, quick_gelu=False)[0])
    factory._MODEL_CONFIGS['mmdpad-test-quickgelu'] = config
    try:
        assert is_quick(load_open_clip('mmdpad-test-quickgelu', tiny.file)[0])
    finally:
        del factory._MODEL_CONFIGS['mmdpad-test-quickgelu']


def longer(state, length):
    """A state with positions for another number of tokens."""
    positions = state['positional_embedding']
    return dict(state, positional_embedding=torch.randn(length, positions.shape[1]))


def test_positions_of_another_number(tiny, tmp_path):
    state = longer(tiny.state, 248)
    torch.save(state, tmp_path / 'long.pt')
    with pytest.raises(ValueError, match='of 248 tokens, but .* them for 12; set .*length=248`'):
        load_open_clip(tiny.name, str(tmp_path / 'long.pt'))
    model, _, tokenizer = load_open_clip(tiny.name, str(tmp_path / 'long.pt'), context_length=248)
    assert same(model, state)
    assert model.context_length == tokenizer.context_length == 248
    with pytest.raises(ValueError, match='of 12 tokens, but the model has them for 248'):
        load_open_clip(tiny.name, tiny.file, context_length=248)
    torch.save(dict(tiny.state, **{'visual.positional_embedding': torch.zeros(17, 32)}),
               tmp_path / 'large.pt')
    with pytest.raises(ValueError, match=r'1 of another shape .visual.pos.* \(17, 32\) instead of'):
        load_open_clip(tiny.name, str(tmp_path / 'large.pt'))
    for name, tag in (('ViT-B-32', 'openai'), ('hf-hub:org/model', None)):
        with pytest.raises(ValueError, match='`context_length` should be left out'):
            load_open_clip(name, tag, context_length=248)


def test_a_file_of_long_clip(tiny, tmp_path):
    """It adds the first table at 20 positions, the second at the others, each times a mask."""
    state = longer(tiny.state, 248)
    second = torch.randn(248, 32)
    torch.save(dict(state, positional_embedding_res=second), tmp_path / 'longclip.pt')
    model, _, _ = load_open_clip(tiny.name, str(tmp_path / 'longclip.pt'), context_length=248,
                                 quick_gelu=True)
    mask = (torch.arange(248) < 20).float()[:, None]
    assert torch.equal(model.positional_embedding,
                       state['positional_embedding'] * mask + second * (1 - mask))


def test_names_of_other_sources(tiny, tmp_path):
    """OpenAI's entries beside the weights, a wrapper's prefix, half precision, SigLIP's bias."""
    torch.save({**tiny.state, 'input_resolution': torch.tensor(32), 'vocab_size': torch.tensor(9),
                'context_length': torch.tensor(12)}, tmp_path / 'a.pt')
    torch.save(dict(epoch=3, state_dict={f'module.{k}': v for k, v in tiny.state.items()}),
               tmp_path / 'b.pt')
    torch.save({**tiny.state, 'logit_scale': tiny.state['logit_scale'].reshape(1)},
               tmp_path / 'c.pt')
    for name in 'abc':
        model, _, _ = load_open_clip(tiny.name, str(tmp_path / f'{name}.pt'), quick_gelu=True)
        assert same(model, tiny.state)


@pytest.mark.promise('Files', 'A CLIP folder that brings Python code',
                     'no code runs and nobody is asked; the error says that it would')
def test_code_of_a_folder_is_not_run(tiny, tmp_path, monkeypatch, tried):
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    monkeypatch.setattr(dynamic_module_utils, 'HF_MODULES_CACHE', str(tmp_path / 'modules'))
    folder, fired = Path(shutil.copytree(tiny.hf_folder, tmp_path / 'clip')), tmp_path / 'fired'
    tokenizer = json.loads((folder / 'tokenizer_config.json').read_text())
    tokenizer |= dict(tokenizer_class='Evil', auto_map=dict(AutoTokenizer=['evil.Evil'] * 2))
    (folder / 'tokenizer_config.json').write_text(json.dumps(tokenizer))
    (folder / 'evil.py').write_text(f'open({str(fired)!r}, "w")\nclass Evil: pass\n')
    with pytest.raises(RuntimeError, match='needs custom Python code, which is never run'):
        load_open_clip(f'local-dir:{folder}', None)
    assert not fired.exists()
    with contextlib.suppress(Exception):
        open_clip.get_tokenizer(f'local-dir:{folder}')
    assert fired.exists()
    tried('a user who types yes')


@pytest.mark.promise('Files', 'CLIP weights that are a pickle with code',
                     'no code runs; the error names the file')
def test_pickled_weights_run_no_code(tiny, tmp_path, tried):
    folder = Path(shutil.copytree(tiny.folder, tmp_path / 'clip'))
    for form in WRITERS:
        path = write_checkpoint(folder / 'open_clip_pytorch_model.bin', form, tmp_path / 'fired')
        for name, pretrained in ((f'local-dir:{folder}', None), (tiny.name, path)):
            with pytest.raises(ValueError, match='open_clip_pytorch_model.bin'):
                load_open_clip(name, pretrained)
        assert_real(path, tmp_path / 'fired')
    tried(f'{len(WRITERS)} forms, as a folder and as a file')
