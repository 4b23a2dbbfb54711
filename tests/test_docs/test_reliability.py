# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The table of promises has a row for each promise that a test makes, and no other."""
import ast
from pathlib import Path
from types import SimpleNamespace

from promises import BEGIN, as_markdown, make_rows, read_rows

ROOT = Path(__file__).parents[2]


def marks():
    """The texts of the marks of promises."""
    for path in (ROOT / 'tests').rglob('test_*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'pytest.mark.promise':
                yield tuple(map(ast.literal_eval, node.args))


def test_the_page_has_each_promise_that_a_test_makes():
    rows = read_rows((ROOT / 'docs/reliability.md').read_text())
    assert rows.keys() == set(marks())
    assert not any('failed' in outcome or 'error' in outcome for _, outcome in rows.values())


def test_tests_of_one_fault_share_a_row():
    def report(outcome, **properties):
        return SimpleNamespace(nodeid='a', promise=('Disk', 'full', 'nothing is lost'),
                               outcome=outcome, user_properties=[*properties.items()])
    rows = make_rows([report('passed', tried='once', other='x'), report('passed', tried='twice'),
                      report('failed')])
    (key, (tried, outcome)), = rows.items()
    assert key == ('Disk', 'full', 'nothing is lost') and tried == 'once; twice'
    assert outcome.startswith('2 passed, 1 failed (20')


def test_rows_that_were_not_run_stay():
    rows = {('B', 'f', 'p'): ('', '1 passed (2026-01-01)'), ('A', 'g', 'q'): ('x; y', '2 passed')}
    page = f'| no | row |\n{BEGIN}\n{as_markdown(rows)}'
    assert read_rows(page) == rows
    assert page.index('## A') < page.index('## B')
