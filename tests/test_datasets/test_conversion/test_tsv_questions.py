# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tables of questions with images inside, as VLMEvalKit reads them and pandas writes them."""
import base64
import csv
import io

import numpy as np
import pytest
from PIL import Image

from mmdpad.datasets import AnswerLinesDataset, DatasetError
from mmdpad.datasets.conversion.tsv_questions import convert_tsv

COLUMNS = ('index', 'image', 'question', 'hint', 'A', 'B', 'C', 'D', 'multi-choice options',
           'answer', 'category', 'target_instances')


def encoded(seed, size=(20, 10), form='PNG'):
    """An image in base64; noise, so that it is as long as photographs are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


FIRST = dict(index='0', image=encoded(0), question='What is\t"it"?', A='a cup', B='None',
             answer='B', category='Perception/Attributes', target_instances='[[2, 1, 8, 9]]')


@pytest.fixture
def convert(tmp_path):
    """Convert a table of some rows."""
    def run(*rows, **kwargs):
        path = tmp_path / 'bench.tsv'
        with open(path, 'w', newline='', encoding='utf-8') as file:
            table = csv.DictWriter(file, COLUMNS, delimiter='\t', restval='')
            table.writeheader()
            table.writerows(rows)
        assert convert_tsv(str(path), tmp_path / 'out', **kwargs) == len(rows)
        return list(AnswerLinesDataset(str(tmp_path / 'out/questions.jsonl'),
                                       serialize_data=False))
    return run


def test_choices_boxes_and_types(convert, tmp_path):
    """'None' is a choice; VLMEvalKit's tables are read by pandas, which takes it for nothing."""
    item, = convert(FIRST)
    assert item['question'] == 'What is\t"it"? Choose one of these: (A) a cup; (B) None'
    assert (item['img_id'], item['choices'], item['answers']) == (
        0, ('a cup', 'None'), ('(B) None', ))
    assert (item['evidence'], item['question_type']) == (
        ((2, 1, 8, 9), ), 'Perception/Attributes')
    assert (tmp_path / 'out/images/0.png').read_bytes() == base64.b64decode(FIRST['image'])


def test_an_image_of_another_row_and_long_fields(convert):
    """The reference may come before the image; one image is larger than csv's default limit."""
    large = encoded(1, (300, 300))
    assert len(large) > csv.field_size_limit() == 131072
    first, second, third = convert(
        dict(FIRST, index='7', image='8'), dict(FIRST, index='8', image=large),
        dict(FIRST, index='x', image=encoded(1, (30, 30), 'JPEG'), target_instances=''))
    assert first['img_path'] == second['img_path'] and second['img_path'].endswith('8.png')
    assert third['img_path'].endswith('x.jpg') and third['img_id'] == 'x'
    assert csv.field_size_limit() == 131072


@pytest.mark.parametrize('change, choices, answers', [
    # Texts that are letters: 'B' is the letter of 'A', not the text of the first choice.
    (dict(A='B', B='A', answer='A'), ('B', 'A'), ('(A) B', )),
    (dict(A='B', B='A', answer='B'), ('B', 'A'), ('(B) A', )),
    (dict(A='B', B='x', answer='x'), ('B', 'x'), ('(B) x', )),
    (dict(B='', D='a jug', answer='D'), ('a cup', 'a jug'), ('(B) a jug', )),  # a gap
    (dict(A='', B='', answer='cup', **{'multi-choice options': 'A. a cup\nB. cup'}),
     ('a cup', 'cup'), ('(B) cup', )),
    (dict(A='', B='', answer='A'), None, ('A', ))])  # choices within the question
def test_answers_name_choices(convert, change, choices, answers):
    item, = convert(dict(FIRST, **change))
    assert (item.get('choices'), item['answers']) == (choices, answers)


def test_other_columns(convert):
    """A hint comes before the question; one box is a list of one."""
    item, = convert(dict(FIRST, hint='Look.', D='[2, 1, 8, 9]', target_instances='no'),
                    evidence='D', question_type='hint')
    assert item['texts'][0].startswith('Look. What is') and item['evidence'] == ((2, 1, 8, 9), )
    assert item['question_type'] == 'Look.'


@pytest.mark.parametrize('change, kind', [
    (dict(image=f"['{FIRST['image']}', '{FIRST['image']}']"), 'several images'),
    (dict(image="['1', '2']"), 'several images'),
    (dict(A='', B='', **{'multi-choice options': 'a cup, a jug'}), 'wrong annotation'),
    (dict(A='', B='', **{'multi-choice options': 'A. a cup\nor a mug\nB. a jug'}),
     'wrong annotation'),
    (dict(A='', B='', **{'multi-choice options': 'B. a cup\nB. a jug'}), 'wrong annotation'),
    (dict(image='5'), 'wrong annotation'), (dict(image=''), 'wrong annotation'),
    (dict(image='!' * 80), 'wrong annotation'), (dict(image='A' * 80), 'unreadable image'),
    (dict(answer='E'), 'wrong annotation'), (dict(answer=''), 'wrong annotation'),
    (dict(question=' '), 'empty question'), (dict(index=''), 'wrong annotation'),
    (dict(target_instances='nan'), 'wrong annotation'),
    (dict(target_instances='[[1, 2, 3]]'), 'wrong annotation'),
    (dict(target_instances='[[30, 1, 40, 9]]'), 'box outside'),
    (dict(B='A CUP'), 'wrong annotation'), (dict(index='1'), 'duplicate id')])
def test_every_problem_is_listed_and_nothing_is_written(convert, tmp_path, change, kind):
    with pytest.raises(DatasetError) as caught:
        convert(dict(FIRST, **change), dict(FIRST, index='1', image='x'))
    assert sorted(problem.kind for problem in caught.value.problems) == sorted(
        [kind, 'wrong annotation'])  # the latter of the second row
    assert kind == 'duplicate id' or str(tmp_path / 'bench.tsv, row 0') in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ['bench.tsv']


def test_files_that_are_no_such_table(convert, tmp_path):
    path = tmp_path / 'bench.tsv'
    for content, message in (
            (b'index\tquestion\n', 'lacks the column.s. image, answer, but has index, question'),
            (b'index\timage\tquestion\tanswer\n', 'has no rows'),
            (b'index\timage\tquestion\tanswer\n1\ta\tb\tc\td\n', 'more fields than columns'),
            (b'index\timage\tquestion\tanswer\n1\ta\t"b\tc\n', 'should be a table in UTF-8'),
            (b'index\timage\tquestion\tanswer\n1\ta\t\xff\tc\n', 'should be a table in UTF-8')):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            convert_tsv(str(path), tmp_path / 'out')
    with pytest.raises(DatasetError, match=r'lacks the column\(s\) boxes'):
        convert(FIRST, evidence='boxes')
    with pytest.raises(DatasetError, match='No such file'):
        convert_tsv(str(tmp_path / 'no.tsv'), tmp_path / 'out')
