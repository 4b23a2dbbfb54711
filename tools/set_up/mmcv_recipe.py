# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The decisions behind a build of mmcv, separate from running it. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from steps import SetUpError

MMCV_VERSION = '2.1.0'  # the newest that mmdet 3.3.0 supports
MMCV_CPP_STANDARD = 17  # what mmcv's own sources need

# Setting CFLAGS replaces Python's own flags, optimization among them, hence -O2. Without -g0
# the wheel is 25 times larger. Increase RECIPE with any change that produces another binary.
CFLAGS = '-O2 -DNDEBUG -g0'
RECIPE = 1

GIB = 2**30
BYTES_PER_JOB = 2.5 * GIB  # pybind.cpp, the largest file, takes 2.1 GiB

# In place of pkg_resources, which mmcv's setup.py imports and setuptools 82 no longer has.
PKG_RESOURCES = '''\
from importlib.metadata import PackageNotFoundError as DistributionNotFound
from importlib.metadata import distribution as get_distribution

from packaging.version import parse as parse_version
'''

# mmcv's setup.py reads its version with an `exec` without namespaces and gets it from `locals()`;
# since Python 3.13 (PEP 667) that finds nothing. As sitecustomize.py on PYTHONPATH, this makes such
# an `exec` write to its caller's variables again.
EXEC_INTO_LOCALS = '''\
import builtins
import sys

plain_exec = builtins.exec


def exec(source, globals=None, locals=None, /, **options):
    if globals is None and locals is None:
        caller = sys._getframe(1)
        globals, locals = caller.f_globals, caller.f_locals
    plain_exec(source, globals, locals, **options)


builtins.exec = exec
'''


def required_cpp_standard(include_dir: Path) -> int:
    """Returns the C++ standard that torch's headers require, as the number in `-std=c++NN`.

    torch's headers refuse an older standard with a check such as `__cplusplus < 202002L`, whose
    number is the year and month of the standard, so C++20 here.

    Args:
        include_dir: torch's `include` folder.
    """
    numbers = [MMCV_CPP_STANDARD]
    for header in ('ATen/ATen.h', 'torch/csrc/api/include/torch/all.h'):
        path = include_dir / header
        if path.exists():
            text = path.read_text(encoding='utf-8', errors='replace')
            checks = re.findall(r'__cplusplus\s*<\s*(\d{6})L?', text)
            numbers += [int(check) // 100 % 100 for check in checks]
    return max(numbers)


def set_cpp_standard(setup_text: str, standard: int) -> str:
    """Returns mmcv's setup.py with each of its C++ standard flags set to `standard`."""
    text, count = re.subn(r'(std[=:])c\+\+\d\d', rf'\g<1>c++{standard}', setup_text)
    if count == 0:
        raise SetUpError(
            'mmcv\'s setup.py should name a C++ standard (std=c++17), but it names none; this '
            f'tool is made for mmcv {MMCV_VERSION}')
    return text


def wheel_key(torch_version: str, python_tag: str, device: str, platform: str,
              cxx11_abi: bool) -> str:
    """Returns the name of the cache folder for one build: everything the binary depends on.

    Args:
        torch_version: `torch.__version__`, such as '2.14.1+cu130'.
        python_tag: Such as 'cp311'.
        device: 'cpu', or 'cuda' with its version and the GPU architectures built for.
        platform: `sysconfig.get_platform()`.
        cxx11_abi: `torch.compiled_with_cxx11_abi()`.
    """
    parts = [f'mmcv{MMCV_VERSION}', f'torch{torch_version}', python_tag, device, platform,
             f'abi{int(cxx11_abi)}', f'r{RECIPE}']
    return re.sub(r'[^A-Za-z0-9.+-]', '_', '-'.join(parts))


def parallel_jobs(cpus: int, free_bytes: int) -> int:
    """Returns how many files to compile at once: as many as CPUs and memory allow."""
    return max(1, min(cpus, int(free_bytes // BYTES_PER_JOB)))


def nvcc_release(nvcc_output: str) -> str | None:
    """Returns '13.0' from the output of `nvcc --version`, or None."""
    match = re.search(r'release (\d+\.\d+)', nvcc_output)
    return match.group(1) if match else None


def choose_device(wanted: str, torch_cuda: str | None, toolkits: Iterable[tuple[str, str]],
                  gpu_visible: bool) -> tuple[str, str | None, str]:
    """Decides between a CPU and a CUDA build.

    Args:
        wanted: 'auto', 'cpu' or 'cuda'. 'auto' builds with CUDA if that is possible and there is
            a GPU to use it.
        torch_cuda: `torch.version.cuda`, such as '13.0'; None for a torch without CUDA.
        toolkits: (folder, nvcc's release) of the CUDA toolkits found, the preferred first.
        gpu_visible: Whether torch sees a GPU.

    Returns:
        ('cpu' or 'cuda', the toolkit's folder or None, why).

    Raises:
        SetUpError: `wanted` is 'cuda', which is not possible here.
    """
    if wanted == 'cpu':
        return 'cpu', None, 'asked for'
    toolkits = list(toolkits)
    fitting = None
    if torch_cuda is None:
        obstacle = 'this torch was built without CUDA; install a CUDA build of torch'
    else:
        major = torch_cuda.split('.')[0]
        fitting = next((folder for folder, release in toolkits
                        if release.split('.')[0] == major), None)
        found = ', '.join(release for _, release in toolkits) or 'none'
        obstacle = (f'torch was built for CUDA {torch_cuda}, but the nvcc releases found are: '
                    f'{found}; install the toolkit of CUDA {torch_cuda} and set CUDA_HOME to it')
    if wanted == 'cuda':
        if fitting is None:
            raise SetUpError(f'a CUDA build of mmcv is not possible: {obstacle}')
        return 'cuda', fitting, 'asked for'
    if not gpu_visible:
        return 'cpu', None, 'torch sees no GPU (--cuda builds for one anyway)'
    if fitting is None:
        return 'cpu', None, obstacle
    return 'cuda', fitting, f'torch sees a GPU, and nvcc of CUDA {torch_cuda} was found'
