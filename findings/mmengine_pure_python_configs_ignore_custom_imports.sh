#!/usr/bin/env bash
# mmengine: `custom_imports`, by which a config names the modules that register its classes, is read in configs with
# `_base_ = ...` and ignored in those of the pure Python style (`with read_base():`). No warning is given; the run ends
# later with "is not in the registry". Exits with 0 while it is so, with 1 once it is not.
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

cat > parts.py <<'MODULE'
from mmengine.registry import Registry

PARTS = Registry('part', locations=['parts'])
MODULE
cat > own_parts.py <<'MODULE'
from parts import PARTS


@PARTS.register_module()
class OwnPart:
    pass
MODULE
cat > base.py <<'CONFIG'
custom_imports = dict(imports=['own_parts'], allow_failed_imports=False)
CONFIG
cat > by_path.py <<'CONFIG'
_base_ = ['./base.py']
part = dict(type='OwnPart')
CONFIG
cat > pure_python.py <<'CONFIG'
from mmengine.config import read_base

with read_base():
    from .base import *

part = dict(type='OwnPart')
CONFIG

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib.metadata import version

from mmengine.config import Config
from parts import PARTS

config = Config.fromfile(sys.argv[1])
assert config.custom_imports['imports'] == ['own_parts']  # it is in the config that was read
try:
    outcome = f'built {type(PARTS.build(config.part)).__name__}'
except KeyError as error:
    outcome = f'KeyError: {str(error)[1:48]}'
print(f'mmengine {version("mmengine")}, Python {platform.python_version()}: {sys.argv[1]}: {outcome}')
PROGRAM
echo 'source: mmengine/config/config.py, Config.fromfile and Config._parse_lazy_import'
env/bin/python show.py by_path.py | tee by_path.txt
env/bin/python show.py pure_python.py | tee pure_python.txt
if grep -q 'built OwnPart' by_path.txt && grep -q 'KeyError: OwnPart is not in' pure_python.txt; then
    echo 'as found'
else
    echo 'the behavior has CHANGED' >&2
    exit 1
fi
