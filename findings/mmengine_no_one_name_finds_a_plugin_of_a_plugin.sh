#!/usr/bin/env bash
# mmengine's registries: a class that a package registers below mmdet's (as plugins of mmdet do) is `plugin.Name` in a
# config whose default scope is mmdet, and `mmdet.plugin.Name` in one of a sibling such as mmseg. Each of these names is
# refused in the other place, so a snippet of a config cannot be shared between them. What works in both is the place of
# the class in Python, `module.Name`. Exits with 0 while it is so, with 1 once it is not.
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
import logging
import platform
from importlib.metadata import version

from mmengine.registry import DefaultScope, Registry

logging.disable()  # mmengine looks for modules of these scopes, which need none here
root = Registry('hook', scope='mmengine')
detection = Registry('hook', parent=root, scope='detection')
segmentation = Registry('hook', parent=root, scope='segmentation')
plugin = Registry('hook', parent=detection, scope='plugin')


@plugin.register_module()
class CurveHook:
    pass


print(f'mmengine {version("mmengine")}, Python {platform.python_version()}')
print('source: mmengine/registry/registry.py, Registry.get and Registry._search_child')
print('mmengine (root) has the children detection (as mmdet) and segmentation (as mmseg); plugin is below detection\n')
seen = {}
for scope in ('detection', 'segmentation'):
    with DefaultScope.overwrite_default_scope(scope):
        for name in ('plugin.CurveHook', 'detection.plugin.CurveHook', 'mmengine.detection.plugin.CurveHook',
                     'mmengine.plugin.CurveHook', '__main__.CurveHook'):
            try:
                root.build(dict(type=name))
                seen[scope, name] = 'built'
            except KeyError:
                seen[scope, name] = 'KeyError: not in the registry'
            print(f'default scope {scope:12} type={name!r:38}: {seen[scope, name]}')
built = [key for key, outcome in seen.items() if outcome == 'built']
same = built == [('detection', 'plugin.CurveHook'), ('detection', '__main__.CurveHook'),
                  ('segmentation', 'detection.plugin.CurveHook'), ('segmentation', '__main__.CurveHook')]
print('\nas found: no registered name is built in both' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
