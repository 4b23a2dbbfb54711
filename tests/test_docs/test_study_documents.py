# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the study says is what the tables of its appendix say, which the report tool writes."""
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / 'docs'


def parts(name: str) -> tuple[str, str]:
    """A page's prose with single spaces, and what stands between its markers."""
    before, block, after = re.split('<!-- /?study -->', (DOCS / name).read_text())
    return ' '.join((before + after).split()), block


def rows(block: str) -> list[list[str]]:
    return [line.strip('| ').split(' | ') for line in block.splitlines() if line.startswith('| ')]


NUMBERS = parts('study_appendix.md')[1]


@pytest.mark.parametrize('name, at_least', [('study.md', 10), ('study_appendix.md', 5)])
def test_intervals_in_words_are_in_the_tables(name, at_least):
    found = re.findall(r'([+-]?[\d.]+)(?: points| %)? (\[[^]]+])(?!\()', parts(name)[0])
    assert len(found) >= at_least
    for value, interval in found:
        assert f'{value} {interval}' in NUMBERS, (value, interval)


def test_values_in_words_are_in_the_tables():
    prose = parts('study.md')[0].replace('model of 1.6 million', '')
    found = re.findall(r'(?<![\d.])\d+\.\d(?!\d)', prose)
    assert len(found) >= 40
    for value in found:
        assert re.search(rf'(?<![\d.]){re.escape(value)}(?!\d)', NUMBERS), value


def test_main_tables_are_in_the_appendix():
    ours, all_rows = rows(parts('study.md')[1]), rows(NUMBERS)
    assert len(ours) >= 30
    for row in ours:
        assert any(row[0] == other[0] and set(row) <= set(other) for other in all_rows), row
