#!/usr/bin/env bash
# openmim: a package of the mm* kind that is installed from its folder with `pip install -e .`, as mmdet's and others'
# guides say, is not found, since mim looks beside the package's metadata (site-packages), where nothing but a link to
# the folder is since pip follows PEP 660. `mim list` leaves it out without a word, `mim run` ends with an
# UnboundLocalError, `mim train` does not find its configs. Installed without -e it is found by all three. Exits with 0
# while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
pip=(env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all:)
"${pip[@]}" click==8.1.8 colorama==0.4.6 Markdown==3.9 ordered-set==4.1.0 pandas==2.3.3 pip==25.3 PyYAML==6.0.2 \
    requests==2.32.4 rich==13.9.4 setuptools==80.9.0 tabulate==0.9.0
"${pip[@]}" --no-deps openmim==0.3.9 model-index==0.1.11

cat > show.py <<'PROGRAM'
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

os.environ['PYTHONWARNINGS'] = 'ignore'
print(f'openmim {version("openmim")}, pip {version("pip")}, setuptools {version("setuptools")}, '
      f'Python {platform.python_version()}')
print('source: pip install [-e] ./project, then mim\n')
for path, text in (
        ('pyproject.toml', '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
         '[project]\nname = "mmcups"\nversion = "0.1"\n[tool.setuptools]\npackages = ["mmcups"]\n'
         '[tool.setuptools.package-data]\nmmcups = [".mim/**/*", ".mim/*"]\n'),
        ('mmcups/__init__.py', ''), ('mmcups/.mim/model-index.yml', 'Import: []\n'),
        ('mmcups/.mim/configs/cups.py', 'lr = 0.1\n'), ('mmcups/.mim/tools/train.py', 'print("trained")\n')):
    Path('project', path).parent.mkdir(parents=True, exist_ok=True)
    Path('project', path).write_text(text)


def mim(*arguments):
    """What `mim list` or a run of the package's train.py comes to."""
    run = subprocess.run([Path(sys.executable).with_name('mim'), *arguments], capture_output=True, text=True)
    if arguments == ('list', ):
        return 'mmcups' in run.stdout
    last = (run.stderr.strip().splitlines() or ['no message'])[-1]
    return 'trained' in run.stdout.splitlines() or last.replace('\033[31m', '').replace('\033[1m', '')[:99]


same = True
for options in ((), ('-e', ), ('--config-settings', 'editable_mode=compat', '-e')):
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps',
                    '--no-build-isolation', *options, './project'], check=True)
    imported = subprocess.run([sys.executable, '-c', 'import mmcups'], cwd='/').returncode == 0
    listed, ran = mim('list'), mim('run', 'mmcups', 'train')
    trained = mim('train', 'mmcups', 'cups.py', '--gpus', '0')
    print(f'pip install {" ".join((*options, "./project"))}: imported {imported}, listed {listed}\n'
          f'    mim run:   {ran}\n    mim train: {trained}')
    same &= imported and listed == (not options)
    same &= (ran is True) if not options else str(ran).startswith('UnboundLocalError')
    same &= (trained is True) if not options else str(trained).startswith("ValueError: The path cups.py doesn't exist")
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
