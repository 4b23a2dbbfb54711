# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdpad.utils import (
    jsonable,
    new_folder,
    read_jsonl,
    to_jsonl,
    unique_name,
    unique_path,
    write_atomically,
    write_jsonl,
)


def test_an_earlier_file_is_never_overwritten(tmp_path):
    path = str(tmp_path / 'new' / 'a.jsonl')
    assert [write_atomically(path, text) for text in (b'1', b'2', b'3')] == [
        path, str(tmp_path / 'new' / 'a_2.jsonl'), str(tmp_path / 'new' / 'a_3.jsonl')]
    assert Path(path).read_bytes() == b'1'
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == [
        'a.jsonl', 'a_2.jsonl', 'a_3.jsonl']


def test_unique_path_sees_dangling_links_and_dotted_folders(tmp_path):
    folder = tmp_path / 'v1.0'
    folder.mkdir()
    (folder / 'run').symlink_to('nowhere')
    assert unique_path(str(folder / 'run')) == str(folder / 'run_2')


def test_unique_names_are_taken(tmp_path):
    taken = {'a.jpg'}
    assert [unique_name(name, taken) for name in ('a.jpg', 'a.jpg', 'b')] == [
        'a_2.jpg', 'a_3.jpg', 'b']
    assert taken == {'a.jpg', 'a_2.jpg', 'a_3.jpg', 'b'}


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'new' / 'a'
    with new_folder(path) as folder:
        (folder / 'file').write_text('x')
        assert not path.exists()
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['a']
    assert (path / 'file').read_text() == 'x'


def test_nothing_is_left_of_a_folder_that_fails(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / 'new/a') as folder:
        (folder / 'file').write_text('x')
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_even_if_it_came_meanwhile(tmp_path):
    path = tmp_path / 'a'
    with pytest.raises(FileExistsError, match='a already exists; remove it or'), \
            new_folder(path) as folder:
        (folder / 'file').write_text('x')
        path.mkdir()
    assert [p.name for p in tmp_path.rglob('*')] == ['a']
    with pytest.raises(FileExistsError), new_folder(path):
        raise AssertionError


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(TypeError):
        write_atomically(str(tmp_path / 'a'), 'text is no bytes')
    assert list(tmp_path.iterdir()) == []


def test_json_lines_keep_any_text(tmp_path):
    rows = [{'text': 'Äpfel 苹果 \n "x" \ud800 \x00'}, {'n': 1.5}]
    path = write_jsonl(str(tmp_path / 'a.jsonl'), rows)
    content = Path(path).read_text(encoding='utf-8')
    assert 'Äpfel 苹果' in content
    assert [json.loads(line) for line in content.splitlines()] == rows


def test_json_lines_are_read_back(tmp_path):
    rows = [{'text': 'one\u2028two\x85three\r\nfour \ud800'}, {'n': 1}]
    path = tmp_path / 'a.jsonl'
    path.write_bytes(to_jsonl(rows))
    assert list(read_jsonl(str(path))) == rows


@pytest.mark.parametrize('tail', [b'{"n": 2', b'{"n": 2\n', '{"n": "苹'.encode()[:-1], b'\n \n'])
def test_a_last_line_that_a_killed_run_cut_off_is_left_out(tmp_path, tail):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(to_jsonl([{'n': 1}]) + tail)
    assert list(read_jsonl(str(path))) == [{'n': 1}]


@pytest.mark.parametrize('content, message', [
    (b'<html>\n{}\n', "line 1 is not: '<html>"), (b'{}\n\n[1]\n', 'line 3 is list'),
    (b'[' * 100_000 + b'\n{}', 'line 1 is not'), (b'\xff\x00\n1\n', 'line 1 is not')])
def test_what_is_no_json_lines_is_named(tmp_path, content, message):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(str(path)))


def test_jsonable():
    @dataclass
    class Point:
        xy: tuple[float, float]

    value = {1: torch.tensor([1.5, math.nan]), 'b': np.float32(2), 'c': Point((1.0, math.inf)),
             'd': np.array([True])}
    assert jsonable(value) == {'1': [1.5, None], 'b': 2.0, 'c': {'xy': [1.0, None]}, 'd': [True]}
    with pytest.raises(TypeError, match='plain data, but got object'):
        jsonable(object())
