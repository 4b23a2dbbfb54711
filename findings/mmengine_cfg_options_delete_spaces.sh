#!/usr/bin/env bash
# mmengine's --cfg-options (DictAction) deletes every blank of a text, and makes a list of a text with
# a comma even where it stands in quotes of its own. Exits with 0 while it does, with 1 once it does not.
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

cat > prompt.py <<'CONFIG'
template = 'default'
data_root = 'data'
channels = [1]
CONFIG

cat > show.py <<'PROGRAM'
import argparse
import platform
from importlib.metadata import version

from mmengine.config import Config, DictAction

parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--cfg-options', nargs='+', action=DictAction)
CASES = [  # as they arrive from a shell, key by key: argument, value by the documentation, value that was seen
    ('template', 'template=Find {question} in the image', 'Find {question} in the image',
     'Find{question}intheimage'),
    ('data_root', 'data_root=/content/drive/My Drive/x', '/content/drive/My Drive/x',
     '/content/drive/MyDrive/x'),
    ('data_root', 'data_root="/data/a,b"', '/data/a,b', ['/data/a', 'b']),
    ('channels', 'channels=[1, 1, 1]', [1, 1, 1], [1, 1, 1])]
print(f'mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmengine/config/config.py, DictAction._parse_iterable')
print('documentation: docs/en/advanced_tutorials/config.md, "Modify the fields in command line": strings are '
      'among the\n  types that can be set so; its example of a list has blanks\n')
same = True
for key, argument, documented, seen in CASES:
    args = parser.parse_args(['prompt.py', '--cfg-options', argument])
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options)
    got = config[key]
    same = same and got == seen
    print(f"--cfg-options '{argument}'\n  documented: {documented!r}\n  got:        {got!r}"
          + ('' if got == documented else '   <- not what was typed'))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
