# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
import pkgutil
import re
import subprocess
import sys

import pytest
from mmengine.utils.dl_utils import mmcv_full_available

import mmdpad
from mmdpad.version import REQUIRED

FITTING = {'torch': '2.14.1', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0',
           'transformers': '5.24.0'}


def faults(**changes):
    return mmdpad.find_unsuitable({**FITTING, **changes}.get)


def test_a_fitting_environment_has_no_faults():
    assert faults() == []
    assert set(FITTING) == set(REQUIRED)


@pytest.mark.parametrize('package, version, command', [
    ('torch', '2.4.1', 'pip install "torch>=2.6,<3.0"'),
    ('mmcv', '2.2.0', 'mmdpad build-mmcv'),
    ('mmcv', '1.7.2', 'mmdpad build-mmcv'),
    ('mmdet', '3.1.0', 'pip install "mmdet>=3.2.0,<4.0.0"'),
    ('mmengine', '0.10.5', 'pip install "mmengine>=0.10.6,<1.0.0"'),
    ('transformers', '4.57.6', 'pip install "transformers>=5.20.0,<6.0.0"'),
])
def test_an_unsuitable_version_names_itself_the_window_and_the_command(package, version, command):
    fault, = faults(**{package: version})
    assert fault.startswith(f'{package}=={version} is installed')
    assert f'needs {package}{REQUIRED[package]}' in fault
    assert fault.endswith(f'run: {command}')


def test_a_prerelease_and_a_local_version_inside_the_window_fit():
    assert faults(mmcv='2.0.0rc4') == []
    assert faults(mmcv='2.1.0+cu130') == []


def test_mmcv_lite_is_told_apart_from_a_missing_mmcv():
    missing, = faults(mmcv=None)
    lite, = faults(**{'mmcv': None, 'mmcv-lite': '2.1.0'})
    assert missing.startswith('mmcv is not installed')
    assert lite.startswith('mmcv-lite is installed, which lacks the compiled operators')


def test_importing_mmdpad_raises_all_faults_at_once_and_imports_nothing_heavy():
    script = (
        'import importlib.metadata as m, sys\n'
        'm.version = {"torch": "2.14.1", "mmengine": "0.10.7",'
        ' "mmdet": "2.28.0", "mmcv": "2.1.0",'
        ' "transformers": "4.40.0"}.__getitem__\n'
        'try:\n'
        '    import mmdpad\n'
        'except ImportError as error:\n'
        '    print(error)\n'
        'print(sorted({"torch", "transformers", "mmcv"} & set(sys.modules)))\n')
    shown = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                           check=True).stdout
    assert 'mmdet==2.28.0' in shown and 'transformers==4.40.0' in shown
    assert shown.endswith('[]\n')


def test_mmengine_finds_mmcvs_operators_where_python_lacks_find_loader(monkeypatch):
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    mmdpad.prepare_environment()
    assert mmcv_full_available()
    assert pkgutil.find_loader('no_such_module') is None


def test_bitsandbytes_does_not_advise_a_kernel(caplog):
    logger = logging.getLogger('bitsandbytes.backends.cpu.ops')
    logger.warning('Failed to load CPU gemm_4bit_forward from kernels-community: %s', 'none')
    logger.warning('something else')
    assert caplog.messages == ['something else']


def test_the_version_is_a_release_number():
    assert re.fullmatch(r'\d+\.\d+\.\d+', mmdpad.__version__)
