# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import threading

import pytest

from mmdpad.apis.turns import Turns


def wait_for(turns, number):
    while len(turns._queue) < number:
        pass


def test_the_first_to_ask_is_the_first_to_get_it():
    turns, order = Turns(), []

    def work(number):
        with turns:
            order.append(number)

    with turns:
        assert not turns.wanted
        threads = [threading.Thread(target=work, args=(number, )) for number in range(4)]
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(turns, number + 2)
        assert turns.wanted and not order
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3] and not turns.wanted


def test_an_error_ends_a_turn():
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    with turns:
        pass


def test_who_stops_waiting_leaves_the_queue(monkeypatch):
    turns = Turns()
    with turns:
        monkeypatch.setattr(turns._change, 'wait_for', lambda _: (_ for _ in ()).throw(
            KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            turns.__enter__()
        assert not turns.wanted
        monkeypatch.undo()
    with turns:
        pass
