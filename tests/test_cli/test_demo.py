# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import builtins
import os
import signal
import socket
import tempfile

import pytest

from mmdpad.cli import demo
from mmdpad.utils import find_config


@pytest.mark.parametrize('arguments, message', [
    (['no_such_config'], 'no_such_config'),
    (['--weights', 'no.pth'], "--weights 'no.pth' does not exist"),
    (['--second-weights', 'no.pth'], '--second-weights'), (['--second', 'no_such'], 'no_such'),
    (['--port', '0'], 'integer from 1 to 65535'), (['--queue', '0'], 'integer from 1'),
    (['--max-megapixels', '500'], 'integer from 1 to 89'), (['--host', '1.2.3.4'], 'name another')])
def test_a_wrong_command_line_ends_before_anything_is_loaded(arguments, message, capsys,
                                                             monkeypatch):
    monkeypatch.setattr('mmdpad.apis.demo_page.loading.load_model',
                        lambda *_: pytest.fail('loaded'))
    with pytest.raises(SystemExit) as end:
        demo.main(arguments)
    assert message in f'{end.value}{capsys.readouterr().err}'


def test_a_taken_port_is_reported():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f'cannot listen on 127.0.0.1:{port} '):
            demo.main(['--port', str(port)])


def test_a_missing_gradio_is_reported(monkeypatch):
    real = builtins.__import__

    def without_gradio(name, *rest):
        if name.startswith('gradio') or name.endswith('.page'):
            raise ImportError("No module named 'gradio'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', without_gradio)
    with pytest.raises(SystemExit, match=r'gradio.*pip install "gradio>=6.0"'):
        demo.main(['--port', str(free_port())])


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def test_checkpoints_of_the_command_line(tmp_path):
    weights = str(tmp_path / 'a.pth')
    (tmp_path / 'a.pth').touch()
    tiny = find_config('tiny_shapes')
    port = ['--port', str(free_port())]
    assert demo._parse(port).checkpoints == [(tiny, None)]
    assert demo._parse([*port, '--second-weights', weights]).checkpoints == [
        (tiny, None), (tiny, weights)]
    second = demo._parse([*port, '--weights', weights, '--second', 'tiny_shapes_sft'])
    assert second.checkpoints == [(tiny, weights), (find_config('tiny_shapes_sft'), None)]


def test_its_folder_goes_when_it_is_terminated(tmp_path, monkeypatch):
    pytest.importorskip('gradio')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    before = signal.signal(signal.SIGTERM, lambda *_: None)

    def load(*_):
        assert list(tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr('mmdpad.apis.demo_page.loading.load_model', load)
    try:
        with pytest.raises(KeyboardInterrupt):
            demo.main(['--port', str(free_port())])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())
