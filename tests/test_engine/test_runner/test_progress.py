# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import io
import logging

import pytest

from mmdpad.engine.runner.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def logger():
    logger = logging.Logger('progress')
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    return logger


def count(logger):
    with progress_bar(6, 'Test', logger) as bar:
        for _ in range(2):
            bar.update(3)
            logger.warning('a line')


def test_a_terminal_sees_a_bar_that_counts_samples(monkeypatch, logger):
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    stream = logger.handlers[0].stream
    count(logger)
    assert 'Test: 100%' in terminal.getvalue() and '6/6' in terminal.getvalue()
    assert stream.getvalue() == 'a line\na line\n'
    assert logger.handlers[0].stream is stream


def test_elsewhere_there_is_only_the_log(monkeypatch, logger):
    file = io.StringIO()
    monkeypatch.setattr('sys.stderr', file)
    count(logger)
    assert file.getvalue() == ''
    assert logger.handlers[0].stream.getvalue() == 'a line\na line\n'


def test_other_processes_than_the_first_show_nothing(monkeypatch, logger):
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    monkeypatch.setattr('mmdpad.engine.runner.progress.is_main_process', lambda: False)
    count(logger)
    assert terminal.getvalue() == ''


def test_the_log_is_given_back_after_an_error(monkeypatch, logger):
    monkeypatch.setattr('sys.stderr', Terminal())
    stream = logger.handlers[0].stream
    with pytest.raises(ZeroDivisionError), progress_bar(6, 'Test', logger):
        raise ZeroDivisionError
    assert logger.handlers[0].stream is stream
