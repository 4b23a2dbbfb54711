# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is promised when something goes wrong, and what the tests of it found: a table.

A test says by `@pytest.mark.promise(chapter, fault, promise)` what it tries, and by the fixture
`tried` how much of it. Tests of one fault share a row, and the texts of the marks are literals, so
that a test of docs/reliability.md can read them. `pytest -m "slow or promise" --promises=FILE`
writes the table into the page, where rows of tests that were not run stay as they were.
"""
import importlib.metadata
import os
import platform
import re
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from mmdpad.utils.markdown import wrap_markdown

VERSIONS = ('torch', 'mmengine', 'mmcv', 'mmdet', 'transformers', 'open_clip_torch', 'gradio',
            'pillow', 'pyarrow', 'hypothesis', 'atheris')
BEGIN, END = '<!-- begin promises -->', '<!-- end promises -->'


def pytest_addoption(parser):
    parser.addoption('--promises', metavar='FILE', help='write the table of promises into a page')


def pytest_configure(config):
    config.addinivalue_line(
        'markers', 'promise(chapter, fault, promise): what is promised when something goes wrong; '
        'a row in docs/reliability.md')


@pytest.fixture
def tried(record_property):
    """Notes what was done, in a few words with the numbers."""
    return lambda text: record_property('tried', text)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if mark := item.get_closest_marker('promise'):
        report.promise = mark.args


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for name in ('passed', 'failed', 'error', 'skipped')
               for report in terminalreporter.stats.get(name, ()) if hasattr(report, 'promise')]
    if not reports or 'promise' not in config.option.markexpr:
        return
    rows = make_rows(reports)
    terminalreporter.section('promises')
    terminalreporter.write_line(as_markdown(rows))
    if page := config.getoption('promises'):
        page = Path(page)
        text = page.read_text()
        table = as_markdown({**read_rows(text), **rows})
        page.write_text(re.sub(f'{BEGIN}.*{END}', lambda _: f'{BEGIN}\n{table}\n{END}', text,
                               flags=re.S))


def make_rows(reports) -> dict[tuple, tuple]:
    """(chapter, fault, promise) -> (what was tried, outcome)."""
    found = defaultdict(list)
    for report in sorted(reports, key=lambda report: report.nodeid):
        found[report.promise].append(report)
    rows = {}
    for promise, of_it in found.items():
        told = dict.fromkeys(text for report in of_it for name, text in report.user_properties
                             if name == 'tried')
        counts = Counter(report.outcome for report in of_it)
        outcome = ', '.join(f'{number} {name}' for name, number in counts.items())
        rows[promise] = '; '.join(told), f'{outcome} ({date.today()})'
    return rows


def read_rows(page: str) -> dict[tuple, tuple]:
    """The rows of a page, as :func:`make_rows` made them."""
    rows, chapter = {}, ''
    for line in page.partition(BEGIN)[2].splitlines():
        if line.startswith('## '):
            chapter = line[3:]
        elif line.startswith('| ') and not line.startswith(('| Fault |', '| --- |')):
            fault, promise, tried, outcome = map(str.strip, line.strip('|').split('|'))
            rows[chapter, fault, promise] = tried, outcome
    return rows


def as_markdown(rows) -> str:
    """A table for each chapter, below what they were run on."""
    lines = [wrap_markdown(
        f'The last run: {platform.system()}, {os.cpu_count()} cores, Python '
        f'{platform.python_version()}, {", ".join(installed_versions())}.')]
    for chapter in sorted({promise[0] for promise in rows}):
        lines += ['', f'## {chapter}', '', '| Fault | Promise | Tried | Outcome |',
                  '| --- | --- | --- | --- |']
        lines += [f'| {fault} | {promise} | {tried} | {outcome} |'
                  for (of, fault, promise), (tried, outcome) in sorted(rows.items())
                  if of == chapter]
    return '\n'.join(lines)


def installed_versions():
    for name in VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f'{name} {importlib.metadata.version(name)}'
