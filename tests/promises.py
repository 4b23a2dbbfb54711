# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is promised when something goes wrong, and what the tests of it found: a table.

A test says by `@pytest.mark.promise(chapter, fault, promise)` what it tries, and by the fixture
`tried` how much of it. Tests of one fault share a row, and the texts of the marks are literals, so
that a test of docs/reliability.md can read them. `pytest -m "slow or promise" --promises=FILE`
writes the table into the page.
"""
import importlib.metadata
import os
import platform
import re
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import pytest

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
    table = make_table(reports)
    terminalreporter.section('promises')
    terminalreporter.write_line(table)
    if page := config.getoption('promises'):
        page = Path(page)
        text = re.sub(f'{BEGIN}.*{END}', lambda _: f'{BEGIN}\n{table}\n{END}', page.read_text(),
                      flags=re.S)
        page.write_text(text)


def make_table(reports) -> str:
    """Markdown: a row for each fault, by chapters."""
    rows = defaultdict(lambda: defaultdict(list))
    for report in sorted(reports, key=lambda report: report.nodeid):
        chapter, fault, promise = report.promise
        rows[chapter][fault, promise].append(report)
    lines = [f'{date.today()}, {platform.system()}, {os.cpu_count()} cores, Python '
             f'{platform.python_version()}, {", ".join(installed_versions())}.', '']
    for chapter, faults in sorted(rows.items()):
        lines += [f'### {chapter}', '', '| Fault | Promise | Tried | Outcome |',
                  '| --- | --- | --- | --- |']
        for (fault, promise), found in sorted(faults.items()):
            told = dict.fromkeys(text for report in found for name, text in report.user_properties
                                 if name == 'tried')
            counts = Counter(report.outcome for report in found)
            outcome = ', '.join(f'{number} {name}' for name, number in counts.items())
            lines.append(f'| {fault} | {promise} | {"; ".join(told)} | {outcome} |')
        lines.append('')
    return '\n'.join(lines).rstrip()


def installed_versions():
    for name in VERSIONS:
        try:
            yield f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            pass
