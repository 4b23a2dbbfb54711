# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Stands in for the project's commands in tests of what launches them."""
from pathlib import Path


def write_outputs(command, checkpoint):
    """What a command of a study leaves: a training the name of its last checkpoint, a test its
    result."""
    if command[0] == 'tools/train.py':
        folder = Path(command[command.index('--work-dir') + 1])
        folder.mkdir(parents=True)
        (folder / 'last_checkpoint').write_text(f'/elsewhere/{checkpoint}')
    else:
        out = Path(command[command.index('--out') + 1])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text('{}')
