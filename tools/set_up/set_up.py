# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sets up mmdpad's environment; `make env` runs it, and so does every other make target first.

    python3 tools/set_up/set_up.py           # set up; a repeated run does nothing
    python3 tools/set_up/set_up.py --which   # print the environment's python

If no virtual environment is active, it makes .venv/ in the checkout and installs the versions in
constraints.txt, which were tested together. In an active one (venv, or conda other than base)
it keeps torch, torchvision and numpy unchanged and adds what is missing. Then it builds mmcv
(build_mmcv.py). An interrupted set-up continues where it stopped.

Standard library only, and syntax that Python 3.8 reads: it looks for a suitable Python itself.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from failures import explain  # noqa: E402
from steps import SetUpError, clock, run_logged  # noqa: E402

ROOT = HERE.parents[1]
VENV = ROOT / '.venv'
PYTHONS = ((3, 14), (3, 13), (3, 12), (3, 11), (3, 10))  # supported by mmdpad
SUPPORTED = 'Python {}.{} to {}.{}'.format(*PYTHONS[-1], *PYTHONS[0])
KEPT = ('torch', 'torchvision', 'numpy')  # left unchanged in an active environment
# Inputs that determine the environment; if any changes, `make env` runs again.
INPUTS = ('setup.py', 'mmdpad/version.py', 'tools/set_up/constraints.txt',
          'tools/set_up/mmcv_recipe.py')


def active_environment(environ, prefix, base_prefix):
    """Returns the folder of the active virtual environment, or None.

    Args:
        environ (dict): `os.environ`.
        prefix (str): `sys.prefix`; differs from `base_prefix` inside a venv.
        base_prefix (str): `sys.base_prefix`.
    """
    folder = environ.get('VIRTUAL_ENV')
    if not folder and prefix != base_prefix:
        folder = prefix
    if not folder and environ.get('CONDA_DEFAULT_ENV', 'base') != 'base':
        folder = environ.get('CONDA_PREFIX')
    if not folder or Path(folder).resolve() == VENV.resolve():
        return None
    if not (Path(folder) / 'bin' / 'python').exists():
        raise SetUpError(f'the active environment should have a bin/python, but {folder} has '
                         'none; run `deactivate` (or `unset VIRTUAL_ENV`) and try again')
    return Path(folder)


def ask_python(python):
    """Returns ((major, minor) or None, complaint or None) for a Python that may not even run."""
    question = 'import sys; print(*sys.version_info[:2]); import ensurepip, venv'
    try:
        answer = subprocess.run([str(python), '-c', question], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True)
    except OSError as error:
        return None, str(error)
    if not answer.stdout.strip():
        return None, 'does not run'
    version = tuple(int(part) for part in answer.stdout.split()[:2])
    name = '.'.join(map(str, version))
    if version not in PYTHONS:
        return version, f'is Python {name}'
    if answer.returncode != 0:
        return version, (f'lacks venv (Debian and Ubuntu: apt install python{name}-venv '
                         f'python{name}-dev g++)')
    return version, None


def find_interpreter(running=sys.executable, which=shutil.which, ask=ask_python):
    """Returns a Python that can make the environment: the running one, else one on the PATH."""
    candidates = [running] + [which('python{}.{}'.format(*version)) for version in PYTHONS]
    complaints = []
    for candidate in dict.fromkeys(filter(None, candidates)):
        complaint = ask(candidate)[1]
        if complaint is None:
            return candidate
        complaints.append(f'  {candidate} {complaint}')
    raise SetUpError(f'mmdpad needs {SUPPORTED}, but found:\n' +
                     '\n'.join(complaints) + '\nInstall one (Debian and Ubuntu: apt install '
                     'python3 python3-venv python3-dev g++), or name one: make env PYTHON=...')


def stamp_text(python, root=ROOT):
    """Returns the digest of everything that determines the environment."""
    digest = hashlib.sha256(f'{python}\n{root}\n'.encode())
    for name in INPUTS:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def kept_constraints(installed, pinned):
    """Returns constraint lines for an active environment, whose packages must stay unchanged.

    Args:
        installed (dict[str, str]): Version of each package of KEPT that is installed.
        pinned (list[str]): The lines of constraints.txt.
    """
    lines = [f'{name}=={version}' for name, version in installed.items()]
    if 'torch' not in installed:  # then both, because they belong together
        lines += [line for line in pinned if line.split('==')[0] in ('torch', 'torchvision')
                  and line.split('==')[0] not in installed]
    return lines


def installed_versions(python):
    """Returns the versions of the packages of KEPT that are installed for `python`."""
    question = ('import importlib.metadata as m\n'
                f'for name in {KEPT!r}:\n'
                '    try: print(name, m.version(name))\n'
                '    except m.PackageNotFoundError: pass')
    answer = subprocess.run([str(python), '-c', question], stdout=subprocess.PIPE, text=True,
                            check=True)
    return dict(line.split() for line in answer.stdout.splitlines())


def last_line(log_path):
    """Returns a function that returns the log's last line, for the progress line."""
    def status(_):
        lines = log_path.read_text(errors='replace').strip().splitlines()
        return lines[-1].strip() if lines else ''
    return status


def run_or_explain(title, command, log_path):
    """Runs a step; if it fails, raises SetUpError with the cause and the hint."""
    environ = dict(os.environ, PIP_NO_INPUT='1', PIP_DISABLE_PIP_VERSION_CHECK='1')
    code, output = run_logged(title, command, log_path, last_line(log_path), env=environ)
    if code != 0:
        raise SetUpError(explain(title, output, log_path))


def build_mmcv(python):
    """Runs build_mmcv.py, which prints its own messages; returns its exit status."""
    process = subprocess.Popen([str(python), str(HERE / 'build_mmcv.py')],
                               stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got the signal too: let it delete its work folder
        process.wait()
        raise


def prepare_venv(log_path):
    """Makes .venv/ if it is missing or unfinished; returns its python."""
    python = VENV / 'bin' / 'python'
    if python.exists():
        version = ask_python(python)[0]
        if version is not None and version not in PYTHONS:
            raise SetUpError(f'{VENV} should hold {SUPPORTED}, but holds '
                             f'{version[0]}.{version[1]}; run `make clean-env` and try again')
        if subprocess.run([str(python), '-m', 'pip', '--version'], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0:
            return python
    run_or_explain(f'making {VENV.name}/', [find_interpreter(), '-m', 'venv', '--clear', VENV],
                   log_path)
    return python


def set_up(active):
    """Brings the environment into the state that INPUTS require; fast if it already is."""
    prefix = active or VENV
    python = prefix / 'bin' / 'python'
    stamp = prefix / '.mmdpad-set-up'
    if python.exists() and stamp.exists() and stamp.read_text() == stamp_text(python):
        return
    started = time.time()
    constraints = HERE / 'constraints.txt'
    if active:
        log_path = prefix / 'mmdpad-set-up.log'
        version, complaint = ask_python(python)
        if version not in PYTHONS:
            raise SetUpError(f'the active environment {active} should hold {SUPPORTED}, but '
                             f'{python} {complaint}; run `deactivate` and try again')
        print(f'Setting up mmdpad in the active environment {active}', flush=True)
        pinned = constraints.read_text().splitlines()
        constraints = prefix / 'mmdpad-constraints.txt'
        constraints.write_text('\n'.join(kept_constraints(installed_versions(python), pinned)))
    else:
        log_path = ROOT / '.venv.log'
        log_path.write_text('')
        print('Setting up mmdpad in .venv/ (about 6 GB; the first time takes 5 to 15 minutes)',
              flush=True)
        prepare_venv(log_path)
    pip = [python, '-m', 'pip', 'install', '--progress-bar', 'off', '-c', constraints]
    run_or_explain('installing torch and torchvision',
                   [*pip, 'setuptools>=64,<82', 'wheel', 'ninja', 'torch', 'torchvision'], log_path)
    run_or_explain('installing mmdpad and its requirements',
                   [*pip, '--no-build-isolation', '-e', f'{ROOT}[dev]'], log_path)
    if build_mmcv(python) != 0:
        raise SetUpError('mmcv could not be built (see above); once that is fixed, run the same '
                         'command again: it continues from here')
    stamp.write_text(stamp_text(python))
    hint = '' if active else f'; to use it: source {VENV.name}/bin/activate'
    print(f'The environment is ready ({clock(time.time() - started)}){hint}', flush=True)


def main():
    """Sets up, or prints the environment's python; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--which', action='store_true', help="print the environment's python")
    args = parser.parse_args()
    active = active_environment(os.environ, sys.prefix, sys.base_prefix)
    if args.which:
        print((active or VENV) / 'bin' / 'python')
        return
    with open(ROOT / '.set_up.lock', 'w') as lock:  # `make demo` and `make test` side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        set_up(active)


if __name__ == '__main__':
    try:
        main()
    except SetUpError as error:
        sys.exit(f'\n{error}')
    except KeyboardInterrupt:
        sys.exit('\ninterrupted; run the same command again to continue')
