# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The table of promises has no row that no test makes."""
import ast
from pathlib import Path
from types import SimpleNamespace

from promises import make_table

ROOT = Path(__file__).parents[2]


def marks():
    """The texts of the marks of promises."""
    for path in (ROOT / 'tests').rglob('test_*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'pytest.mark.promise':
                yield tuple(map(ast.literal_eval, node.args))


def test_the_page_has_no_other_promise():
    page = (ROOT / 'docs/reliability.md').read_text()
    rows = [tuple(line.strip('| ').split(' | ')[:2]) for line in page.splitlines()
            if line.startswith('| ') and not line.startswith(('| ---', '| Fault'))]
    assert rows and len(set(rows)) == len(rows)
    assert set(rows) <= {(fault, promise) for _, fault, promise in marks()}
    assert ' failed' not in page and ' error' not in page


def test_tests_of_one_fault_share_a_row():
    def report(outcome, **properties):
        return SimpleNamespace(nodeid='a', promise=('Disk', 'full', 'nothing is lost'),
                               outcome=outcome, user_properties=[*properties.items()])
    table = make_table([report('passed', tried='once', other='x'), report('passed', tried='twice'),
                        report('failed')])
    assert '### Disk' in table
    assert '| full | nothing is lost | once; twice | 2 passed, 1 failed |' in table
