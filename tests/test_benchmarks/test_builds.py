# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sides of a benchmark that import the packages of two checkouts."""
import argparse
import importlib
import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture
def builds(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('builds')


SIDES = '''
import mmdpad

def side(turns, log):
    build = getattr(mmdpad, 'BUILD', 'this one')
    for _ in range(3):
        with turns.step():
            with open(log, 'a') as file:
                print(build, file=file)
    return dict(build=build)

def fails(turns):
    with turns.step():
        raise ValueError('of the side')
'''


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """Two sides, and a checkout whose package only has a name."""
    (tmp_path / 'checkout' / 'mmdpad').mkdir(parents=True)
    (tmp_path / 'checkout' / 'mmdpad' / '__init__.py').write_text('BUILD = "the earlier one"')
    (tmp_path / 'sides.py').write_text(SIDES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'sides', None)
    del sys.modules['sides']
    return importlib.import_module('sides')


def test_workers_import_their_own_build_and_take_turns(builds, sides, tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONPATH', raising=False)
    path, log = sys.path[:], tmp_path / 'log'
    trees = builds.builds(argparse.Namespace(before=builds.checkout(tmp_path / 'checkout')))
    result, facts = builds.compare(
        {name: builds.Worker(tree, sides.side, log) for name, tree in trees.items()}, repeats=2)
    assert sys.path == path and 'PYTHONPATH' not in os.environ
    assert log.read_text() == 'this one\nthe earlier one\n' * 3
    assert facts == dict(mmdpad=dict(build='this one'), before=dict(build='the earlier one'))
    assert result['ratio'].keys() == {'before'} and result['peak_memory_mb']['before'] > 1
    for part, steps in ((result['seconds'], 2), (result['cpu_time']['seconds'], 2),
                        (result['warm_up'], 1)):
        assert {name: len(values) for name, values in part.items()} == dict(
            mmdpad=steps, before=steps)


def test_a_side_that_fails_is_named(builds, sides, tmp_path):
    worker = builds.Worker(tmp_path / 'checkout', sides.fails)
    with pytest.raises(RuntimeError, match='fails with .*checkout should take a step .* status 1'):
        worker.step()


def test_a_folder_without_the_package_is_refused(builds, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    builds.add_before(parser)
    assert builds.builds(parser.parse_args([])) == dict(mmdpad=BENCHMARKS.parents[1])
    with pytest.raises(SystemExit):
        parser.parse_args(['--before', str(tmp_path)])
    assert 'should be a checkout of mmdpad, but has no mmdpad/__init__.py' in \
        capsys.readouterr().err
