#!/usr/bin/env bash
# mmengine writes a config with an infinite number (`clip_grad=dict(max_norm=float('inf'))` logs the norm and clips
# nothing) as the bare name `inf`, so the config.py that every run leaves in its work dir cannot be read again.
# Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    mmengine==0.10.7 addict==2.4.0 packaging==25.0 platformdirs==4.3.6 PyYAML==6.0.2 rich==13.9.4 \
    markdown-it-py==3.0.0 mdurl==0.1.2 Pygments==2.19.1 setuptools==80.9.0 termcolor==2.5.0 yapf==0.43.0 \
    numpy==2.2.6 opencv-python-headless==4.11.0.86

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version
from pathlib import Path

from mmengine.config import Config

print(f'mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmengine/config/config.py, Config.dump and Config.pretty_text; the documentation of Config has the\n'
      '  dumped file as one that can be used by itself\n')
same = True
for number, seen in (('35.0', 'read again'), ("float('inf')", "NameError: name 'inf' is not defined")):
    Path('mine.py').write_text(f'optim_wrapper = dict(clip_grad=dict(max_norm={number}, norm_type=2))\n')
    config = Config.fromfile('mine.py')
    config.dump('dumped.py')
    try:
        got = 'read again' if Config.fromfile('dumped.py').optim_wrapper == config.optim_wrapper else 'changed'
    except NameError as error:
        got = f'NameError: {error}'
    same = same and got == seen
    print(f'max_norm={number}: written as\n    {Path("dumped.py").read_text().strip()}\n  {got}')
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
