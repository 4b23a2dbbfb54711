# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import importlib.util
import sys
from pathlib import Path

import pytest

from mmdpad.evaluation.provenance import publish

TOOLS = Path(__file__).parents[2] / 'tools/analysis_tools'


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Runs a tool in this process, by its name and arguments; returns what it printed."""
    def run(name, *arguments):
        path = TOOLS / f'{name}.py'
        spec = importlib.util.spec_from_file_location(f'{name}_tool', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
        module.main()
        return capsys.readouterr().out
    yield run
    publish(None)
