# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import re
import shlex
import sys
from pathlib import Path

import pytest

from mmdpad.cli.run import find_tools

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(python|shell)\n(.*?)^```', re.M | re.S)


def as_script(words: list[str]) -> list[str]:
    """What `python` is given for a command of a page."""
    if words[:2] == ['mmdpad', 'run']:
        return [str(find_tools()[words[2]]), *words[3:]]
    if words[:1] == ['mmdpad']:
        return [f'tools/{words[1]}.py', *words[2:]]
    assert words[:1] == ['python'], f'there is a command that no test runs: {" ".join(words)}'
    return words[1:]


@pytest.fixture
def follow(tmp_path, monkeypatch, run_here):
    """Does what a page of docs/ says, in a new folder that has the checkout's folders in it.

    A python block that opens with a file's name as a comment becomes that file. Each line of a
    shell block is run; it should be `python FILE ...`, `mmdpad COMMAND ...` or
    `export PYTHONPATH=.`. Returns the folder, and what each command printed, by command.
    """
    def do(name: str) -> tuple[Path, dict[str, str]]:
        for folder in ('configs', 'mmdpad', 'tests', 'tools'):
            (tmp_path / folder).symlink_to(ROOT / folder)
        monkeypatch.chdir(tmp_path)
        printed = {}
        for language, text in BLOCK.findall((ROOT / 'docs' / name).read_text()):
            if language == 'python':
                if title := re.match(r'# (\S+\.py)\n', text):
                    Path(title[1]).write_text(text)
                continue
            for line in text.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                if words == ['export', 'PYTHONPATH=.']:
                    monkeypatch.syspath_prepend(tmp_path)
                    continue
                result = run_here(*as_script(words), folder=tmp_path)
                assert not result.returncode, f'{line}\n{result.stdout}{result.stderr}'
                printed[' '.join(words[1:])] = result.stdout
        return tmp_path, printed
    modules = set(sys.modules)
    yield do
    for module in set(sys.modules) - modules:  # those of the page
        if (getattr(sys.modules[module], '__file__', None) or '').startswith(str(tmp_path)):
            del sys.modules[module]
