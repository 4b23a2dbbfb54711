# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Stands in for the project's commands in tests of what launches them."""
import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

TOOLS = Path(__file__).parents[1] / 'tools/analysis_tools'


@contextmanager
def launcher_of(study, run_class, checkpoint, monkeypatch):
    """The module that launches a study; the commands of its runs are written down in ``calls`` in
    place of being run."""
    modules = ('run_study', study)
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(study)
    module.calls = []

    def call(run, *command):
        module.calls.append(command)
        write_outputs(command, checkpoint)

    monkeypatch.setattr(getattr(module, run_class), '_call', call)
    yield module
    for name in modules:
        sys.modules.pop(name, None)


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
