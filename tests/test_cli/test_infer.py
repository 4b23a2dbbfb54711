# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

import mmdpad
from mmdpad.apis import Answer
from mmdpad.cli.infer import format_answer, read_select, show
from mmdpad.utils import read_jsonl

ROOT = Path(mmdpad.__file__).parents[1]


def test_it_answers_from_any_folder(shapes_data, tmp_path):
    image = shapes_data / 'test' / 'test_00003.jpg'
    told = subprocess.run(
        [sys.executable, '-m', 'mmdpad', 'infer', str(image), 'the object nearest to the right'],
        cwd=tmp_path, env=dict(os.environ, PYTHONPATH=f'{ROOT}:{os.environ["PYTHONPATH"]}'),
        capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    answer, = read_jsonl(tmp_path / 'outputs' / 'results.jsonl')
    assert answer['failure'] is None
    for expected in (str(image), 'the object nearest to the right', answer['reasoning'],
                     answer['caption'], 'outputs/test_00003.png', 'outputs/results.jsonl'):
        assert expected in told.stdout
    assert (tmp_path / 'outputs' / 'test_00003.png').is_file()
    assert 'mmengine - INFO' not in told.stdout


def test_a_terminal_sees_the_text_grow(capsys):
    answer = Answer('a.jpg', response='<think>\x1b[2J</think>')
    assert show(iter(['<thi', '<think>\x1b[2J', answer]), live=True) is answer
    assert capsys.readouterr().out == '<think>\N{REPLACEMENT CHARACTER}[2J\n\n'
    assert show(iter(['<thi', answer]), live=False) is answer
    assert show(iter([answer]), live=True) is answer
    assert capsys.readouterr().out == ''


ANSWER = dict(image='a.jpg', question='the dog?', reasoning='It barks.', caption='a dog',
              failure=None, objects=[dict(box=[1.2, 2, 30, 4.6])])


def test_an_answer_as_it_is_printed():
    assert format_answer(ANSWER, 'out/a_2.png') == '''\
  question   the dog?
  reasoning  It barks.
  caption    a dog
  box        1, 2, 30, 5 (x1, y1, x2, y2; pixels)
  picture    out/a_2.png'''


def test_labelled_objects_are_a_table():
    found = dict(ANSWER['objects'][0], label='dog', score=0.5, description='the loud\x1b\none')
    other = dict(found, label='hot dog', score=1.0, description='')
    text = format_answer(dict(ANSWER, objects=[found, other], answer='yes'), 'a.png')
    assert text.splitlines()[3:] == [
        '  answer     yes', '  picture    a.png', '',
        '  label    score  x1, y1, x2, y2  description',
        '  dog      0.50   1, 2, 30, 5     the loud\N{REPLACEMENT CHARACTER} one',
        '  hot dog  1.00   1, 2, 30, 5']


def test_the_choice_among_several_answers():
    samples = [dict(value=value, chosen=chosen) for value, chosen in (
        (0.123456, False), (None, False), (2.0, True))]
    text = format_answer(dict(ANSWER, samples=samples), 'a.png')
    assert 'chosen     3 of 3 (values 0.123, none, 2)' in text
    assert 'none of 2' in format_answer(dict(ANSWER, samples=samples[:2]), 'a.png')
    assert read_select('consensus') == 'consensus'
    assert read_select("[(5, 'likelihood'), (1, 'consensus')]") == [(5, 'likelihood'),
                                                                    (1, 'consensus')]
    with pytest.raises(ArgumentTypeError, match='should be a name, a list or a dict'):
        read_select('[(5, likelihood')


def test_several_objects_have_a_line_each_and_a_failure_says_why():
    lines = format_answer(dict(ANSWER, objects=ANSWER['objects'] * 2), 'a.png').splitlines()
    assert [line.split()[:2] for line in lines if 'box' in line] == [['box', '1'], ['box', '2']]
    failed = format_answer(dict(ANSWER, objects=[], reasoning='', caption='',
                                failure='no_answer: there is none'), 'a.png')
    assert failed.splitlines()[1].split(maxsplit=2) == ['no', 'answer', 'no_answer: there is none']


@pytest.mark.parametrize('arguments, message', [
    (['README.md', 'what?'], 'README.md'),
    (['no/such.jpg', 'what?'], "image 'no/such.jpg' does not exist"),
    (['{image}', ' '], 'the question is empty'),
    (['{image}', 'what?', '--config', 'mmdpad::none.py'], "'mmdpad::none.py' does not exist"),
    (['{image}', 'what?', '--weights', 'none.pth'], "weights 'none.pth' does not exist"),
    (['{image}', 'what?', '--samples', '4'], '`test_cfg.select` should say how to choose among'),
    (['{image}', 'what?', '--task', 'vqa'], "those of the model (segmentation), but got 'vqa'"),
])
def test_what_cannot_be_used_is_named_at_once(run_here, shapes_data, tmp_path, arguments, message,
                                              monkeypatch):
    monkeypatch.setattr('mmengine.logging.MMLogger.setLevel', lambda *_: None)
    image = str(shapes_data / 'test' / 'test_00003.jpg')
    told = run_here('tools/infer.py', *(text.format(image=image) for text in arguments),
                    '--out-dir', tmp_path)
    assert told.returncode == 1 and message in told.stderr and 'Traceback' not in told.stderr
