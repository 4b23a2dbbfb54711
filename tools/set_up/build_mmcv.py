# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds mmcv with its compiled operators for the torch of this interpreter, and installs it.

    mmdpad build-mmcv [--cpu | --cuda] [--rebuild]
    python tools/set_up/build_mmcv.py ...              # the same, where mmdpad is not installed

mmdet needs mmcv's operators, no wheel of mmcv fits a current torch, and mmcv's sdist requests an
older C++ standard than torch's headers accept. This tool downloads the sdist from the package
index (and wheel and ninja, if they are missing), sets the standard that the installed torch
requires, compiles (some minutes on two cores), and keeps the wheel in a user cache
($XDG_CACHE_HOME or ~/.cache, mmdpad/wheels), so that the next environment with the same
versions takes seconds. If an mmcv with working operators is already installed, it does nothing.

The CUDA operators are built if torch is a CUDA build, sees a GPU, and nvcc of the same CUDA
version is found. Without them mmdpad still runs on a GPU, but mmdet's detectors need them there.
`--cuda` or FORCE_CUDA=1 builds them even if no GPU is visible (for example on a cluster's login
node; name the architectures in TORCH_CUDA_ARCH_LIST). Other settings: MAX_JOBS, CC, CXX,
CUDA_HOME.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import mmcv_recipe as recipe  # noqa: E402
from failures import explain  # noqa: E402
from steps import SetUpError, clock, run_logged  # noqa: E402

# Module -> its name for pip.
NEEDED = {'torch': 'torch', 'mmengine': 'mmengine', 'cv2': 'opencv-python',
          'setuptools': '"setuptools<82"'}
BUILD_TOOLS = ('wheel', 'ninja')
# In a checkout tools/ is beside the package, in an installed one inside it, as .mim/tools/.
VERSION = next(path for path in (HERE.parents[1] / 'mmdpad/version.py',
                                 HERE.parents[2] / 'version.py') if path.is_file())
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
PROBE = HERE / 'probe_mmcv.py'


def cache_folder() -> Path:
    """Returns the folder that keeps built wheels and build logs."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmdpad' / 'wheels'


def run_probe() -> subprocess.CompletedProcess:
    """Runs PROBE; if it crashes, its standard error contains the stack."""
    return subprocess.run([sys.executable, '-X', 'faulthandler', PROBE],
                          capture_output=True, text=True)


def installed_mmcv() -> tuple[str | None, str | None]:
    """Returns (version, CUDA of its operators); (None, None) unless suitable and working."""
    wanted = runpy.run_path(str(VERSION))['REQUIRED']['mmcv']
    try:
        version = importlib.metadata.version('mmcv')
    except importlib.metadata.PackageNotFoundError:
        return None, None
    from packaging.specifiers import SpecifierSet
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        print(f'  mmcv {version} is installed, but mmdpad needs mmcv{wanted}: replacing it')
        return None, None
    probe = run_probe()
    if probe.returncode != 0:
        why = (probe.stderr.strip().splitlines() or ['no message'])[-1]
        print(f'  mmcv {version} is installed, but its operators do not work ({why})')
        return None, None
    return version, probe.stdout.strip().splitlines()[-1]


def cuda_toolkits(torch_cuda: str | None) -> list[tuple[str, str]]:
    """Returns (folder, nvcc's release) of the CUDA toolkits found, the preferred first."""
    folders = [os.environ.get('CUDA_HOME'), f'/usr/local/cuda-{torch_cuda}', '/usr/local/cuda']
    nvcc = shutil.which('nvcc')
    if nvcc:
        folders.append(str(Path(nvcc).resolve().parents[1]))
    found = []
    for folder in dict.fromkeys(filter(None, folders)):
        nvcc = Path(folder) / 'bin' / 'nvcc'
        if nvcc.exists() and (Path(folder) / 'include' / 'cuda_runtime.h').exists():
            answer = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
            release = recipe.nvcc_release(answer)
            if release:
                found.append((folder, release))
    return found


def bundled_headers(packages: Path, torch_cuda: str | None) -> list[str]:
    """Returns the folders of CUDA headers that came with torch: a toolkit with only nvcc lacks
    those of cuSPARSE and others, which torch's headers include.

    Args:
        packages: The environment's site-packages.
        torch_cuda: `torch.version.cuda`, such as '13.0'; before 13 each library has a folder.
    """
    major = (torch_cuda or '').split('.')[0]
    together = packages / 'nvidia' / f'cu{major}' / 'include'
    folders = [together] if together.is_dir() else sorted(packages.glob('nvidia/*/include'))
    return [str(folder) for folder in folders]


def free_memory() -> int:
    """Returns the free memory in bytes (4 GiB if the system does not report it)."""
    try:
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * recipe.GIB


def check_compiler(standard: int, log_path: Path) -> None:
    """Compiles two lines, so that a missing or old compiler is reported before the build."""
    compiler = os.environ.get('CXX') or 'c++'
    include = sysconfig.get_paths()['include']
    try:
        result = subprocess.run(
            [*compiler.split(), f'-std=c++{standard}', f'-I{include}', '-x', 'c++',
             '-fsyntax-only', '-'],
            input='#include <Python.h>\n#include <vector>\n', capture_output=True, text=True)
        complaint = result.stderr if result.returncode != 0 else ''
    except OSError:
        complaint = f"No such file or directory: '{compiler}': c++: command not found"
    if complaint:
        log_path.write_text(complaint)
        raise SetUpError(explain('The check of the C++ compiler', complaint, log_path))


def check_opencv(log_path: Path) -> None:
    """Imports OpenCV, as mmcv does: missing system libraries are reported before the build."""
    tried = subprocess.run([sys.executable, '-c', 'import cv2'], capture_output=True, text=True)
    if tried.returncode != 0:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text(tried.stderr)
        raise SetUpError(explain('The import of OpenCV', tried.stderr, log_path))


def run_or_explain(title: str, command: list, log_path: Path, **arguments) -> None:
    """Runs a step; if it fails, raises SetUpError with the cause and the hint."""
    code, output = run_logged(title, command, log_path, **arguments)
    if code != 0:
        raise SetUpError(explain(title[0].upper() + title[1:], output, log_path))


def precompile_header(header: Path, standard: int, env: dict, log_path: Path) -> None:
    """Makes GCC parse torch's headers once instead of once per file, which is most of the time.

    Nearly all of mmcv's files include this header first. GCC uses the precompiled one only if its
    options match those of the build, and otherwise reads the header as usual: then, and with
    another compiler, the build merely takes longer.
    """
    compiler = (env.get('CXX') or 'c++').split()
    about = subprocess.run([*compiler, '--version'], capture_output=True, text=True).stdout
    if 'Free Software Foundation' not in about:
        return
    import torch
    torch_include = Path(torch.__file__).parent / 'include'
    includes = [f'-I{path}' for path in (
        header.parent, torch_include, torch_include / 'torch/csrc/api/include',
        sysconfig.get_paths()['include'])]
    run_logged('precompiling torch\'s headers',
               [*compiler, *env['CFLAGS'].split(), '-fPIC', *includes, f'-std=c++{standard}',
                '-DTORCH_API_INCLUDE_EXTENSION_H', '-DTORCH_EXTENSION_NAME=_ext',
                '-x', 'c++-header', header, '-o', f'{header}.gch'], log_path)


def build_wheel(device: str, toolkit: str | None, standard: int, log_path: Path,
                work: Path) -> Path:
    """Downloads mmcv's sdist into `work`, compiles it there and returns the wheel's path."""
    tools = [tool for tool in BUILD_TOOLS if importlib.util.find_spec(tool) is None]
    if tools:
        run_or_explain(f'installing {" and ".join(tools)}, needed to build it',
                       [*PIP, 'install', *tools], log_path)
    # torch looks for ninja on PATH, which lacks an environment that is not activated.
    path = os.pathsep.join([sysconfig.get_path('scripts'), os.environ.get('PATH', '')])
    env = dict(os.environ, MMCV_WITH_OPS='1', PATH=path)
    env['CFLAGS'] = f'{recipe.CFLAGS} {os.environ.get("CFLAGS", "")}'.strip()
    env.setdefault('MAX_JOBS', str(recipe.parallel_jobs(os.cpu_count() or 1, free_memory())))
    if device == 'cuda':
        import torch
        env.update(FORCE_CUDA='1', CUDA_HOME=toolkit)
        # Searched after the toolkit's.
        headers = bundled_headers(Path(torch.__file__).parents[1], torch.version.cuda)
        env['CPATH'] = os.pathsep.join(filter(None, [os.environ.get('CPATH'), *headers]))
    else:
        env.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    patches = {}
    if importlib.util.find_spec('pkg_resources') is None:
        patches['pkg_resources'] = recipe.PKG_RESOURCES
    if sys.version_info >= (3, 13):
        patches['sitecustomize'] = recipe.EXEC_INTO_LOCALS
    if patches:
        folder = work / 'patches'
        folder.mkdir()
        for module, text in patches.items():
            (folder / f'{module}.py').write_text(text)
        env['PYTHONPATH'] = os.pathsep.join(
            filter(None, [str(folder), os.environ.get('PYTHONPATH')]))

    run_or_explain(
        f'fetching the sources of mmcv {recipe.MMCV_VERSION}',
        [*PIP, 'download', f'mmcv=={recipe.MMCV_VERSION}', '--no-deps', '--no-binary', 'mmcv',
         '--no-build-isolation', '--dest', work], log_path, env=env)
    shutil.unpack_archive(next(work.glob('mmcv-*.tar.gz')), work)
    source = work / f'mmcv-{recipe.MMCV_VERSION}'
    setup_path = source / 'setup.py'
    setup_path.write_text(
        recipe.set_cpp_standard(setup_path.read_text(encoding='utf-8'), standard),
        encoding='utf-8')

    precompile_header(source / 'mmcv/ops/csrc/common/pytorch_cpp_helper.hpp', standard, env,
                      log_path)
    patterns = ['*.cpp', 'cpu/*.cpp'] + (['cuda/*.cu', 'cuda/*.cpp'] if device == 'cuda' else [])
    total = sum(len(list((source / 'mmcv/ops/csrc/pytorch').glob(p))) for p in patterns)

    def progress(seconds):
        made = len(list((source / 'build').rglob('*.o')))
        text = f'{made} of {total} files compiled'
        if made >= total // 5:
            text += f', about {clock(seconds * (total - made) / made)} left'
        return text

    run_or_explain(
        f'compiling mmcv {recipe.MMCV_VERSION} ({device}, C++{standard}, '
        f'{env["MAX_JOBS"]} at once)',
        [sys.executable, 'setup.py', 'bdist_wheel', '--dist-dir', work / 'wheel'], log_path,
        status=progress, env=env, cwd=source)
    return next((work / 'wheel').glob('mmcv-*.whl'))


def cached_wheel(folder: Path, rebuild: bool, device: str, toolkit: str | None, standard: int,
                 log_path: Path) -> Path:
    """Returns the wheel in `folder`, building it if it is missing or `rebuild` is True."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:  # a second set-up waits, then uses this one's wheel
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheels = sorted(folder.glob('mmcv-*.whl'))
        if wheels and not rebuild:
            print(f'  using the cached wheel: {wheels[0]}')
            return wheels[0]
        log_path.write_text('')
        check_compiler(standard, log_path)
        work = folder / 'building'
        shutil.rmtree(work, ignore_errors=True)  # left by a build that was killed
        work.mkdir()
        try:
            built = build_wheel(device, toolkit, standard, log_path, work)
            target = folder / built.name
            os.replace(built, target)  # atomic, so that no partial wheel is ever found
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def install(wheel: Path, log_path: Path) -> None:
    """Installs the wheel without touching any other package; raises unless its operators work."""
    if importlib.util.find_spec('mmcv') is not None:  # mmcv-lite shares mmcv's folder
        run_or_explain('removing the unsuitable mmcv',
                       [*PIP, 'uninstall', '-y', 'mmcv', 'mmcv-lite'], log_path)
    run_or_explain('installing mmcv', [*PIP, 'install', '--no-deps', wheel], log_path)
    probe = run_probe()
    if probe.returncode != 0:
        aside = wheel.with_name(f'{wheel.name}.failed')  # took minutes, but must not be reused
        os.replace(wheel, aside)
        with log_path.open('a') as log:
            log.write(f'\nthe check of the operators, exit status {probe.returncode}:\n'
                      f'{probe.stderr}')
        raise SetUpError(explain('The check of mmcv\'s operators', probe.stderr, log_path) +
                         f'\n  the wheel was moved to {aside}\n  If the wheel is not the cause, '
                         f'fix that and rename it to {wheel.name}; otherwise the next run builds '
                         f'another.')


def build_and_install(device: str, toolkit: str | None, rebuild: bool) -> None:
    """Installs the wheel for this torch and `device`, cached or newly built."""
    import torch
    standard = recipe.required_cpp_standard(Path(torch.__file__).parent / 'include')
    target = device
    if device == 'cuda':
        seen = {'{}.{}'.format(*torch.cuda.get_device_capability(i))
                for i in range(torch.cuda.device_count())}
        archs = os.environ.get('TORCH_CUDA_ARCH_LIST') or '+'.join(sorted(seen)) or 'all'
        target = f'cuda{torch.version.cuda}-{archs}'
    key = recipe.wheel_key(
        torch.__version__, f'cp{sys.version_info.major}{sys.version_info.minor}', target,
        sysconfig.get_platform(), torch.compiled_with_cxx11_abi())
    log_path = cache_folder() / f'{key}.log'
    check_opencv(log_path)
    wheel = cached_wheel(cache_folder() / key, rebuild, device=device, toolkit=toolkit,
                         standard=standard, log_path=log_path)
    install(wheel, log_path)


def main(argv: list[str] | None = None) -> None:
    """Installs a working mmcv; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device_flags = parser.add_mutually_exclusive_group()
    device_flags.add_argument('--cpu', dest='device', action='store_const', const='cpu')
    device_flags.add_argument('--cuda', dest='device', action='store_const', const='cuda')
    parser.add_argument('--rebuild', action='store_true', help='build even if a wheel is cached')
    args = parser.parse_args(argv)
    wanted = args.device or ('cuda' if os.environ.get('FORCE_CUDA') == '1' else 'auto')
    started = time.time()

    version, cuda = installed_mmcv()
    has_wanted = wanted != 'cuda' or cuda != 'not available'
    if version is not None and has_wanted and not args.rebuild:
        print(f'  mmcv {version} is installed, its operators work (their CUDA: {cuda})')
        return
    missing = [package for module, package in NEEDED.items()
               if importlib.util.find_spec(module) is None]
    if missing:
        raise SetUpError(f'building mmcv needs packages that {sys.executable} does not have; run: '
                         f'pip install {" ".join(missing)}')
    import torch

    device, toolkit, why = recipe.choose_device(
        wanted, torch.version.cuda, cuda_toolkits(torch.version.cuda), torch.cuda.is_available())
    print(f'  mmcv for torch {torch.__version__}, {device} operators: {why}')
    try:
        build_and_install(device, toolkit, args.rebuild)
    except SetUpError as error:
        if device == 'cpu' or wanted == 'cuda':
            raise
        print(f'{error}\n  Continuing with the CPU operators.')
        build_and_install('cpu', None, args.rebuild)
    print(f'  mmcv {recipe.MMCV_VERSION} is ready ({clock(time.time() - started)})')


if __name__ == '__main__':
    try:
        main()
    except SetUpError as error:
        sys.exit(f'\n{error}')
    except KeyboardInterrupt:
        sys.exit('\ninterrupted; run the same command again to continue')
