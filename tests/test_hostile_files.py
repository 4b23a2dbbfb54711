# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Commands that are given a file which carries code."""
from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from exploits import Touch, assert_real, write_checkpoint
from PIL import Image

from mmdpad.apis import ReasonSegInferencer
from mmdpad.datasets import DatasetError, ReferringSegDataset
from mmdpad.models import SAMDecoder
from mmdpad.models.decoders import DetectorDecoder
from mmdpad.registry import MODELS
from mmdpad.utils import open_config

CONFIG = 'configs/dpad/tiny_shapes.py'
EVIL = pytest.mark.promise(
    'Files', 'A command that is given a checkpoint with code',
    'no code runs; it ends with one line that names the file, before anything is built')


@EVIL
@pytest.mark.parametrize('command', [
    ('tools/test.py', CONFIG, '{}'),
    ('tools/train.py', CONFIG, '--work-dir', '{}.d', '--resume', '{}'),
    ('tools/train.py', CONFIG, '--work-dir', '{}.d', '--cfg-options', 'load_from={}'),
    ('tools/infer.py', 'tests/data/photos/val/cat.jpeg', 'what?', '--weights', '{}'),
    ('tools/model_converters/to_hf.py', CONFIG, '{}', '{}.hf'),
], ids=['test', 'resume', 'load_from', 'infer', 'to_hf'])
def test_no_command_runs_a_checkpoint(command, tmp_path, run_here, tried):
    path = write_checkpoint(tmp_path / 'evil.pth', 'zip', tmp_path / 'fired')
    result = run_here(*(part.format(path) for part in command))
    assert result.returncode == 1
    assert 'evil.pth' in result.stderr and 'open, which could run code' in result.stderr
    assert 'Traceback' not in result.stderr
    assert_real(path, tmp_path / 'fired')
    tried('test, train --resume, load_from, infer, to_hf.py')


@pytest.mark.promise('Files', 'A decoder whose checkpoint carries code',
                     'no code runs; the error names the file')
@pytest.mark.parametrize('build', [
    lambda path: SAMDecoder('vit_b', path),
    lambda path: DetectorDecoder('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', path)],
    ids=['SAM', 'detector'])
def test_no_decoder_runs_a_checkpoint(build, tmp_path, tried):
    for form in ('zip', 'legacy'):
        path = write_checkpoint(tmp_path / 'evil.pth', form, tmp_path / 'fired')
        with pytest.raises(ValueError, match='evil.pth.*asks for .*open, which could run code'):
            build(path)
        assert_real(path, tmp_path / 'fired')
    tried('SAMDecoder, DetectorDecoder; two forms')


@pytest.mark.promise('Files', "A stranger's config, in JSON",
                     'reading it runs nothing but `custom_imports`; building it runs what it '
                     'names, as documented')
def test_a_config_of_data_is_looked_at_without_running_it(tmp_path, monkeypatch, tried):
    """What docs/security.md says of both."""
    fired = tmp_path / 'fired'
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'their_module.py').write_text(
        f'from pathlib import Path\nfired = Path({str(fired)!r})\nfired.touch()\n'
        'def build():\n    return fired.exists()\n')
    (tmp_path / 'a.json').write_text(json.dumps(dict(model=dict(type='their_module.build'))))
    config = open_config(str(tmp_path / 'a.json'))
    config.dump(tmp_path / 'again.json')
    assert not fired.exists()
    assert MODELS.build(config.model)
    fired.unlink()
    del sys.modules['their_module']
    (tmp_path / 'b.json').write_text('{"custom_imports": {"imports": ["their_module"]}}')
    open_config(str(tmp_path / 'b.json'))
    assert fired.exists()
    tried('a `type` that names a function of a module; `custom_imports`')


@pytest.mark.promise('Files', "RefCOCO's references, a pickle, with code in it",
                     'no code runs; the error names the file and what to do')
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_references_run_no_code(protocol, tmp_path, tried):
    root = shutil.copytree(Path(__file__).parent / 'data/refcoco', tmp_path / 'data')
    path = root / 'refcoco/refs(unc).p'
    path.write_bytes(pickle.dumps([Touch(tmp_path / 'fired')], protocol))
    with pytest.raises(DatasetError, match=r'refs\(unc\).p should hold plain data only.*write it'):
        ReferringSegDataset(str(root), 'refcoco/instances.json', 'refcoco/refs(unc).p',
                            dict(img_path='train2014/'))
    assert_real(path, tmp_path / 'fired')
    tried('protocols 0, 2, 4, 5')


@pytest.mark.promise('Files', 'An image of extreme shape: 1 x 1, or a side of 20,000',
                     'it is read as it is')
def test_odd_shapes_are_answered_and_drawn(tmp_path, tried):
    """From file to picture, by the toy model with its SAM, whose own input is 80 times smaller."""
    infer = ReasonSegInferencer('tiny_shapes', device='cpu')
    sizes = ((1, 1), (20000, 40), (1, 20000))
    for size in sizes:
        Image.new('RGB', size, 'green').save(tmp_path / 'a.png')
        answer, = infer(tmp_path / 'a.png', 'the object nearest to the right', out_dir=tmp_path)
        assert answer['mask'].shape == size[::-1] and not answer['failure']
        assert answer.draw().shape[1] > 300
    tried(f'{len(sizes)} shapes from file to picture, policy and SAM included')
