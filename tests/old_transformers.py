# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Older versions of transformers, each in an environment of its own, for tests that read what they
wrote and let them read what we write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

VERSIONS = {
    '4.49': ('transformers==4.49.0', 'tokenizers==0.21.0', 'huggingface-hub==0.29.3',
             'peft==0.14.0'),
    '4.51': ('transformers==4.51.3', 'tokenizers==0.21.1', 'huggingface-hub==0.30.2',
             'peft==0.15.1'),
    '4.57': ('transformers==4.57.3', 'tokenizers==0.22.1', 'huggingface-hub==0.36.0',
             'peft==0.18.0')}
"""What is installed for each; the rest, torch included, is this environment's."""
SCRIPT = Path(__file__).with_name('old_transformers_script.py')


@cache
def make_environment(version: str, root: Path) -> Path:
    """The Python of an environment with an older transformers; installed in about 20 seconds.

    Args:
        version: One of :data:`VERSIONS`.
        root: A folder for the environments.
    """
    folder = root / version
    python = folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    _call(sys.executable, '-m', 'venv', str(folder))
    _call(str(python), '-m', 'pip', 'install', '-q', '--disable-pip-version-check', '--no-deps',
          'requests', *VERSIONS[version])
    own = _call(str(python), '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Behind what was installed, so that it is found only where that is not.
    Path(own.strip(), 'newer.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return python


def call_old(python: Path, command: str, *arguments: str | Path) -> dict:
    """What a command of `old_transformers_script.py` returns in an environment."""
    return json.loads(_call(str(python), str(SCRIPT), command, *map(str, arguments)
                            ).splitlines()[-1])


def _call(*command: str) -> str:
    environ = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    told = subprocess.run(command, capture_output=True, text=True,
                          env=dict(environ, HF_HUB_OFFLINE='1', CUDA_VISIBLE_DEVICES=''))
    assert told.returncode == 0, f'{command}:\n{told.stdout}\n{told.stderr}'
    return told.stdout
