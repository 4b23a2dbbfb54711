# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from pathlib import Path

import mmcv_recipe as recipe
import pytest
from steps import SetUpError


def fake_headers(folder, check):
    header = folder / 'ATen' / 'ATen.h'
    header.parent.mkdir(parents=True)
    header.write_text(f'#pragma once\n{check}\n#error\n#endif\n')
    return folder


@pytest.mark.parametrize('check, standard', [
    ('#if !defined(_MSC_VER) && __cplusplus < 201703L', 17),
    ('#if !defined(_MSC_VER) && __cplusplus < 202002L', 20),
    ('#if __cplusplus<202302', 23),
    ('#if !defined(_MSC_VER) && __cplusplus < 201402L', 17),  # mmcv itself needs 17
    ('#if defined(SOMETHING_ELSE)', 17),
])
def test_the_standard_is_read_from_torchs_own_check(tmp_path, check, standard):
    assert recipe.required_cpp_standard(fake_headers(tmp_path, check)) == standard


def test_the_standard_of_the_installed_torch_agrees_with_its_extension_builder():
    import torch
    from torch.utils import cpp_extension
    standard = recipe.required_cpp_standard(Path(torch.__file__).parent / 'include')
    assert f'c++{standard}' in Path(cpp_extension.__file__).read_text()


def test_no_headers_means_mmcvs_own_standard(tmp_path):
    assert recipe.required_cpp_standard(tmp_path) == 17


def test_every_standard_flag_is_set_and_nothing_else():
    before = ("cxx = ['-std=c++14']  # c++14 features\n"
              "win = ['/std:c++17']\nnvcc += ['-std=c++17']\nname = 'c++17'\n")
    assert recipe.set_cpp_standard(before, 20) == (
        "cxx = ['-std=c++20']  # c++14 features\n"
        "win = ['/std:c++20']\nnvcc += ['-std=c++20']\nname = 'c++17'\n")


def test_a_setup_without_a_standard_is_refused():
    with pytest.raises(SetUpError, match='names none'):
        recipe.set_cpp_standard('setup(name="mmcv")', 20)


def test_the_cache_key_tells_all_builds_apart_and_is_a_file_name():
    base = dict(torch_version='2.14.1+cu130', python_tag='cp311', device='cpu',
                platform='linux-x86_64', cxx11_abi=True)
    assert recipe.wheel_key(**base) == (
        'mmcv2.1.0-torch2.14.1+cu130-cp311-cpu-linux-x86_64-abi1-r1')
    others = [dict(base, **change) for change in (
        dict(torch_version='2.14.1'), dict(python_tag='cp312'), dict(device='cuda13.0-9.0'),
        dict(device='cuda13.0-8.0;9.0'), dict(platform='linux-aarch64'), dict(cxx11_abi=False))]
    keys = [recipe.wheel_key(**arguments) for arguments in [base, *others]]
    assert len(set(keys)) == len(keys)
    assert not any(set(key) & set('/; ') for key in keys)


@pytest.mark.parametrize('cpus, free_gib, jobs', [(2, 20, 2), (64, 20, 8), (8, 1, 1), (1, 64, 1)])
def test_jobs_follow_processors_and_memory(cpus, free_gib, jobs):
    assert recipe.parallel_jobs(cpus, free_gib * recipe.GIB) == jobs


def test_nvcc_release():
    shown = 'Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler'
    assert recipe.nvcc_release(shown) == '13.0'
    assert recipe.nvcc_release('nvcc: command not found') is None


CUDA_12, CUDA_13 = ('/usr/local/cuda-12.4', '12.4'), ('/usr/local/cuda-13.1', '13.1')


@pytest.mark.parametrize('wanted, torch_cuda, toolkits, gpu, device, folder', [
    ('auto', '13.0', [CUDA_13], True, 'cuda', '/usr/local/cuda-13.1'),
    ('auto', '13.0', [CUDA_12, CUDA_13], True, 'cuda', '/usr/local/cuda-13.1'),
    ('auto', '13.0', [CUDA_13], False, 'cpu', None),
    ('auto', '13.0', [CUDA_12], True, 'cpu', None),
    ('auto', '13.0', [], True, 'cpu', None),
    ('auto', None, [CUDA_13], False, 'cpu', None),
    ('cpu', '13.0', [CUDA_13], True, 'cpu', None),
    ('cuda', '13.0', [CUDA_13], False, 'cuda', '/usr/local/cuda-13.1'),
])
def test_the_device_built_for(wanted, torch_cuda, toolkits, gpu, device, folder):
    chosen, toolkit, why = recipe.choose_device(wanted, torch_cuda, toolkits, gpu)
    assert (chosen, toolkit) == (device, folder)
    assert why


def test_an_impossible_cuda_build_says_why():
    with pytest.raises(SetUpError, match='built without CUDA'):
        recipe.choose_device('cuda', None, [CUDA_13], True)
    with pytest.raises(SetUpError, match=r'CUDA 13\.0, but the nvcc releases found are: 12\.4'):
        recipe.choose_device('cuda', '13.0', [CUDA_12], True)


def test_the_replacement_of_pkg_resources_offers_what_mmcv_imports():
    names = {}
    exec(recipe.PKG_RESOURCES, names)
    assert names['parse_version']('2.14.1') > names['parse_version']('1.12.1')
    assert names['get_distribution']('packaging')
    with pytest.raises(names['DistributionNotFound']):
        names['get_distribution']('no-such-distribution-anywhere')


def test_the_version_that_mmcvs_setup_reads_is_found_on_every_python(tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(recipe.EXEC_INTO_LOCALS)
    script = """
def get_version():  # as mmcv 2.1.0 has it
    exec(compile('__version__ = "2.1.0"', 'mmcv/version.py', 'exec'))
    return locals()['__version__']

def apart():
    own, name = {}, 'mine'
    exec('name = "theirs"', {}, own)
    exec('name = "theirs"', own)
    return name, own['name']

exec('level = "module"')
print(get_version(), *apart(), level)
"""
    told = subprocess.run([sys.executable, '-c', script], text=True, check=True,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)}, capture_output=True)
    assert told.stdout.split() == ['2.1.0', 'mine', 'theirs', 'module']
