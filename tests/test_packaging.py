# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What OpenMMLab's tools find of mmdpad, in a checkout and in a wheel."""
import json
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import setuptools
import yaml
from mmengine.config import Config
from mmengine.hub import get_config

import mmdpad
from mmdpad.models.sources import find_model
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.utils import check_config, find_config

ROOT = Path(__file__).parents[1]
MIM = Path(mmdpad.__file__).parent / '.mim'
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
WHEEL_BYTES = 9e6
pytestmark = pytest.mark.filterwarnings('ignore:pkg_resources is deprecated')


def models():
    for name in INDEX['Import']:
        content = yaml.safe_load((ROOT / name).read_text())
        collections = {entry['Name'] for entry in content['Collections']}
        assert all((ROOT / entry['README']).is_file() for entry in content['Collections'])
        for model in content['Models']:
            assert model['In Collection'] in collections
            yield model


def test_the_index_lists_every_config_of_dpad():
    listed = [model['Config'] for model in models()]
    there = [f'configs/dpad/{path.name}' for path in (ROOT / 'configs/dpad').glob('*.py')]
    assert sorted(listed) == sorted(there)
    assert all(model['Name'] == Path(model['Config']).stem for model in models())


def test_the_index_claims_no_weights_and_only_the_results_of_the_toy_model():
    assert not any('Weights' in model for model in models())
    (measured, ) = [model for model in models() if 'Results' in model]
    assert measured['Name'] == 'tiny_shapes_loose_boxes'
    for name, value in measured['Results'][0]['Metrics'].items():
        assert f'{value:.1f} [' in (ROOT / 'docs/results.md').read_text(), name


def test_mmengine_finds_our_configs_by_name(tmp_path):
    assert get_config('mmdpad::dpad/tiny_shapes.py').model.policy.pretrained == POLICY_WEIGHTS
    study = get_config('mmdpad::study/control_caption.py')
    assert Path(study.model.policy.pretrained).samefile(ROOT / 'configs/study/weights/study_free')
    mine = tmp_path / 'mine.py'
    mine.write_text('_base_ = "mmdpad::dpad/tiny_shapes.py"\nmax_iters = 3\n')
    config = Config.fromfile(mine)
    assert (config.max_iters, config.model.policy.pretrained) == (3, POLICY_WEIGHTS)


@pytest.mark.slow
def test_a_config_that_inherits_by_name_trains(tmp_path, run_here):
    (tmp_path / 'mine.py').write_text('_base_ = "mmdpad::dpad/tiny_shapes.py"\n')
    assert 'smoke: 2 steps' in run_here('tools/train.py', tmp_path / 'mine.py', '--smoke').stdout


def test_names_of_configs():
    assert find_config('configs/dpad/tiny_shapes.py') == 'configs/dpad/tiny_shapes.py'
    assert Path(find_config('mmdpad::dpad/tiny_shapes.py')).samefile(
        ROOT / 'configs/dpad/tiny_shapes.py')
    assert find_config('mmdet::atss/atss_r50_fpn_1x_coco.py').endswith('.mim/configs/atss/'
                                                                       'atss_r50_fpn_1x_coco.py')
    for name in ('tiny_shapes', 'dpad/tiny_shapes', 'tiny_shapes.py'):
        assert Path(find_config(name)).samefile(ROOT / 'configs/dpad/tiny_shapes.py')
    for name, message in {
            'tiny_shape': 'did you mean .*mmdpad::dpad/tiny_shapes.py',
            'none.py': "config 'none.py' does not exist; those shipped with mmdpad",
            'mmdpad::dpad/tinyshapes.py': 'did you mean mmdpad::dpad/tiny_shapes.py',
            'mmdpad::none.py': 'mmdpad has ',
            'no_such_package::a/b.py': "package 'no_such_package' is not installed",
            'no.such::b.py': "package 'no.such' is not installed",
            '../mmdet::b.py': "package '../mmdet' is not installed"}.items():
        with pytest.raises(FileNotFoundError, match=message):
            find_config(name)
        with pytest.raises(SystemExit, match=message):
            check_config(name)


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    (tmp_path / 'tiny_shapes').touch()
    monkeypatch.chdir(tmp_path)
    assert find_config('tiny_shapes') == 'tiny_shapes'
    assert find_config(tmp_path / 'tiny_shapes') == str(tmp_path / 'tiny_shapes')


def test_the_wheel_takes_every_file_of_configs_and_tools(monkeypatch):
    settings = {}
    monkeypatch.setattr(setuptools, 'setup', settings.update)
    monkeypatch.chdir(ROOT)
    exec((ROOT / 'setup.py').read_text(), dict(__file__=str(ROOT / 'setup.py')))
    patterns = settings['package_data']['mmdpad']
    for folder in ('configs', 'tools'):
        assert (MIM / folder).samefile(ROOT / folder)
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc' and 'weights' not in path.parts:
                name = f'.mim/{path.relative_to(ROOT)}'
                assert any(fnmatch(name, pattern.replace('**/', '')) for pattern in patterns), name


def test_the_citation_names_this_version_and_the_paper_of_the_index():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    (paper, ) = citation['references']
    (collection, ) = yaml.safe_load((ROOT / INDEX['Import'][0]).read_text())['Collections']
    assert citation['version'] == mmdpad.__version__
    assert (paper['title'], paper['url']) == (
        collection['Paper']['Title'], collection['Paper']['URL'])


@pytest.mark.promise('Supply chain', 'Installed versions that do not fit together',
                     '`pip check` reports it, without a network')
def test_the_environment_is_consistent(tried):
    told = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout
    tried(f'this environment: {told.stdout.strip()}')


def test_a_folder_that_the_wheel_leaves_out_is_reported(tmp_path):
    folder = tmp_path / 'mmdpad/.mim/configs/study/weights/study_free'
    with pytest.raises(FileNotFoundError, match='the wheel of mmdpad leaves it out: run this in a '
                                                'checkout, or set `policy.pretrained`'):
        find_model('policy.pretrained', str(folder), 'some-lab/a-model')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel of the files that git knows, so that nothing else of a checkout gets in by chance."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('not a checkout of git')
    for name in filter(None, listed.stdout.split('\0')):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to(os.readlink(ROOT / name))
        else:
            target.write_bytes((ROOT / name).read_bytes())
    # What runs of tools leave in a checkout.
    (source / 'tools/__pycache__').mkdir()
    (source / 'tools/__pycache__/demo.cpython-311.pyc').touch()
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps',
                    '--no-build-isolation', '-w', str(folder), str(source)], check=True)
    (path, ) = folder.glob('*.whl')
    return path


@pytest.mark.slow
def test_the_content_of_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {'mmdpad/.mim/model-index.yml', 'mmdpad/.mim/configs/dpad/metafile.yml',
            'mmdpad/.mim/configs/dpad/tiny_shapes.py', 'mmdpad/.mim/tools/set_up/build_mmcv.py',
            'mmdpad/configs/_load.py', 'mmdpad/configs/dpad/tiny_shapes.py',
            'mmdpad/toy/weights/policy/model.safetensors', 'mmdpad/__main__.py',
             'mmdpad/py.typed', 'mmdpad/.mim/configs/study/control_caption.py',
            'mmdpad/models/rollouts/vllm_worker/mmdpad_weight_updates.py',
            'mmdpad/models/rollouts/vllm_worker/mmdpad_reload.py',
            'mmdpad/cli/doctor/files.py'} <= set(names)
    assert {name.split('/')[0] for name in names} == {'mmdpad', f'{wheel.name[:12]}.dist-info'}
    assert not [name for name in names if any(part in name for part in (
        '__pycache__', '.pyc', 'work_dirs', 'tests/', '.egg-info', 'study/weights'))]
    assert wheel.stat().st_size < WHEEL_BYTES


@pytest.mark.slow
def test_the_wheel_works_from_any_folder(wheel, shapes_data, tmp_path):
    site, folder = tmp_path / 'site', tmp_path / 'some where'
    folder.mkdir()
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target',
                    str(site), str(wheel)], check=True)

    def run(*command):
        return subprocess.run(
            [sys.executable, *map(str, command)], cwd=folder, text=True, capture_output=True,
            env=dict(os.environ, PYTHONPATH=f'{site}:{os.environ["PYTHONPATH"]}'))

    (folder / 'mine.py').write_text('_base_ = "mmdpad::dpad/tiny_shapes.py"\nmax_iters = 3\n')
    told = run('-c', 'import mmdpad; from mmengine import Config; from mmengine.hub import '
               'get_config\n'
               'for config in (get_config("mmdpad::dpad/tiny_shapes.py"), '
               'Config.fromfile("mine.py")): print(config.model.policy.pretrained)')
    assert told.stdout.splitlines() == [str(site / 'mmdpad/toy/weights/policy')] * 2, told

    # The pure Python style needs no import of mmdpad before.
    (folder / 'pure.py').write_text('from mmengine.config import read_base\n\nwith read_base():\n'
                                    '    from mmdpad.configs.dpad.tiny_shapes import *\n')
    told = run('-c', 'from mmengine import Config\n'
               'print(Config.fromfile("pure.py").model.policy.pretrained)')
    assert told.stdout.splitlines() == [str(site / 'mmdpad/toy/weights/policy')], told

    image = shapes_data / 'test' / 'test_00003.jpg'
    told = run(site / 'bin' / 'mmdpad', 'infer', image, 'the object nearest to the right')
    assert told.returncode == 0 and (folder / 'outputs/test_00003.png').is_file(), told

    told = run(site / 'bin' / 'mmdpad', 'doctor', '--json')
    report = json.loads(told.stdout)
    assert told.returncode == 0 and report['ok'] and report['toy'][0]['status'] == 'ok', told

    for command in (('run', 'run_study', '--arms', 'caption'),
                    ('train', 'mmdpad::study/caption.py', '--dry-run')):
        told = run(site / 'bin' / 'mmdpad', *command)
        said = told.stdout + told.stderr
        assert told.returncode and 'the wheel of mmdpad leaves it out: run ' in said, told
    assert not (folder / 'data').exists(), 'nothing is made before'
