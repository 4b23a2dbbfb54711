# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import datetime
import os
import pickle
import random
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from mmdpad.utils.safe_pickle import load_safe_pickle

PLAIN = [None, True, False, 3, -2**70, 0.5, 'Café ☕', b'\x00\xff', (), (1, ), (1, 2, 3, [4]),
         {'a': [1, {2: 'b'}]}, 'x' * 300, list(range(300))]


def read(tmp_path, content: bytes):
    path = tmp_path / 'refs(unc).p'
    path.write_bytes(content)
    return load_safe_pickle(path)


def refused(tmp_path, content: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / 'refs(unc).p'))
    return str(caught.value)


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_plain_data_of_any_protocol_is_read(protocol, tmp_path):
    assert read(tmp_path, pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize('protocol', [0, 1, 2])
def test_old_protocols_are_read(protocol, tmp_path):
    plain = [value for value in PLAIN if not isinstance(value, bytes)]  # newer than these
    assert read(tmp_path, pickle.dumps(plain, protocol)) == plain


def test_sets_are_read_where_the_format_has_them(tmp_path):
    assert read(tmp_path, pickle.dumps([{1, 2}, frozenset('a')], 4)) == [{1, 2}, frozenset('a')]
    assert 'asks for builtins.set,' in refused(tmp_path, pickle.dumps({1, 2}, 3))


# What cPickle of Python 2.7 writes for [{'raw': 'caf\xc3\xa9', 'sent': u'caf\xe9', 'id': 7L}].
PYTHON_2 = {
    0: b"(lp1\n(dp2\nS'raw'\np3\nS'caf\\xc3\\xa9'\np4\nsS'id'\np5\nL7L\nsS'sent'\np6\nVcaf\xe9\np7"
       b"\nsa.",
    2: b'\x80\x02]q\x01}q\x02(U\x03rawq\x03U\x05caf\xc3\xa9q\x04U\x02idq\x05\x8a\x01\x07U\x04sent'
       b'q\x06X\x05\x00\x00\x00caf\xc3\xa9q\x07ua.',
}


@pytest.mark.parametrize('protocol', PYTHON_2)
def test_text_of_python_2_is_text(protocol, tmp_path):
    assert read(tmp_path, PYTHON_2[protocol]) == [{'raw': 'café', 'sent': 'café', 'id': 7}]


def test_text_of_python_2_that_is_not_utf_8_is_latin_1(tmp_path):
    assert read(tmp_path, b"S'caf\\xe9'\np1\n.") == 'café'


class Payload:
    def __init__(self, *call) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_code_is_not_run(protocol, tmp_path):
    victim = tmp_path / 'victim'
    content = pickle.dumps([1, Payload(os.system, f'touch {victim}')], protocol)
    assert f'asks for {os.system.__module__}.system, which would run code' in refused(
        tmp_path, content)
    pickle.loads(content)  # it would have worked
    assert victim.exists()


@pytest.mark.parametrize(('value', 'name'), [
    (np.float64(0.5), 'numpy'), (np.int64(3), 'numpy'), (np.zeros(2), 'numpy'),
    (OrderedDict(a=1), 'collections.OrderedDict'), (datetime.date(2026, 1, 1), 'datetime.date'),
    (print, 'print'), (3j, 'complex'), (bytearray(b'a'), 'BYTEARRAY8'),
], ids=lambda value: type(value).__name__)
def test_other_types_are_named_with_the_remedy(value, name, tmp_path):
    message = refused(tmp_path, pickle.dumps({'area': value}, 5))
    assert name in message and 'convert what it holds (NumPy: `.tolist()` or `.item()`)' in message


@pytest.mark.parametrize('content', [
    b'(ios\nsystem\n.', b'cos\nsystem\n.', b'\x82\x01.', b'Pid\n.', b'NQ.', b'N}b.', b'NNR.',
    b'(No.', b'NN\x81.', b'\x97.',
], ids=['INST', 'GLOBAL', 'EXT1', 'PERSID', 'BINPERSID', 'BUILD', 'REDUCE', 'OBJ', 'NEWOBJ',
        'NEXT_BUFFER'])
def test_every_operation_that_reaches_out_is_refused(content, tmp_path):
    assert 'should hold plain data only' in refused(tmp_path, content)


@pytest.mark.parametrize('content', [
    b'', b'.', b'version https://git-lfs.github.com/spec/v1\n', b'\x80\xff', b'<html>', b'(l',
    b'a.', b'g1\n.', b'Ione\n.', b'}]Ns.', b'\x8e\0\0\x10\0\0\0\0\0a.',
    b'X\x01\x00\x00\x00\xff.', b'G\x00.',
], ids=range(13))
def test_garbage_is_named(content, tmp_path):
    assert 'should be a complete pickle, but cannot be read as one (' in refused(tmp_path, content)


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_a_file_cut_short_anywhere_is_named(protocol, tmp_path):
    content = pickle.dumps([{'raw': 'the cat', 'ids': [1, 2]}], protocol)
    for end in range(len(content)):
        assert 'should be a complete pickle' in refused(tmp_path, content[:end])


@pytest.mark.parametrize('content', [
    b'Nr\0\0\x10\0.', b'Np1048576\n.', b'X\0\0\x10\0ab.', b'U\xffab.'
], ids=['memo', 'memo of protocol 0', 'text', 'short text'])
def test_a_number_in_a_damaged_file_takes_no_memory(content, tmp_path):
    """Numbers of 2**20, and one of a byte."""
    tracemalloc.start()
    try:
        read(tmp_path, content)
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.filterwarnings('ignore:invalid escape sequence:DeprecationWarning')
@pytest.mark.parametrize('protocol', PYTHON_2)
def test_damage_gives_data_or_one_kind_of_error(protocol, tmp_path):
    rng = random.Random(0)
    for _ in range(100):
        content = bytearray(PYTHON_2[protocol])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            read(tmp_path, bytes(content))
        except ValueError as error:
            assert 'refs(unc).p should' in str(error)


def test_deep_nesting_is_no_matter(tmp_path):
    value = read(tmp_path, b'(l' * 100_000 + b'a' * 99_999 + b'.')
    assert isinstance(value, list)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_safe_pickle(tmp_path / 'no.p')
