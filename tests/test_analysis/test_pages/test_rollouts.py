# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import base64
import io
import re

import numpy as np
import pytest
from html_tags import Tags
from PIL import Image

from mmdpad.analysis.pages.rollouts import (
    Group,
    find_iterations,
    notable_groups,
    read_step,
    rollouts_as_html,
    rollouts_as_text,
    sections_as_html,
)
from mmdpad.utils import write_jsonl

HOSTILE = '</pre><script>alert("x")</script>\x1b[2J\r\ud800 & 苹果\nsecond line'


def line(iteration, group, total, index=0, **changes):
    return {**dict(iter=iteration, group=group, index=index, id=f'id{group}', image='a.jpg',
                   question='the dog', response='text', failure=None, truncated=False,
                   rewards=dict(iou=total), total=total, advantage=-1.0, signals=dict(s=None)),
            **changes}


@pytest.fixture
def log(tmp_path):
    def write(rows):
        return write_jsonl(str(tmp_path / 'rollouts.jsonl'), rows)
    return write


def test_a_step_is_read_group_by_group_and_the_best_response_comes_first(log):
    path = log([line(1, 0, 9.), line(2, 0, 1.), line(2, 0, 3., index=1), line(2, 1, 5.)])
    for wanted in (None, 2):
        iteration, groups = read_step(path, wanted)
        assert iteration == 2
        assert [[row['total'] for row in group.rows] for group in groups] == [[3, 1], [5]]
    assert [row['total'] for row in read_step(path, 1)[1][0].rows] == [9]


def test_a_task_is_read_by_itself(log):
    path = log([line(1, 0, 9., task='a'), line(1, 1, 1., task='b'), line(2, 0, 3., task='a')])
    iteration, (group, ) = read_step(path, task='b')
    assert iteration == 1 and group.title == 'Group 1 (id1, b): mean 1.000, spread 0.000'
    with pytest.raises(ValueError, match=r"those in the log \(a, b\), but got 'c'"):
        read_step(path, task='c')
    assert read_step(log([line(1, 0, 9.)]))[1][0].title.startswith('Group 0 (id0): ')
    other = Group([line(1, 0, 9., rewards=dict(iou=9., f1=None))])
    assert ' f1 ' not in rollouts_as_text(1, dict(Best=[other])), 'a term of another task'


def test_iterations_of_a_resumed_run(tmp_path):
    """Killed in iteration 4, resumed from 2, and killed again."""
    first, second = (write_jsonl(str(tmp_path / f'{name}.jsonl'), [
        line(iteration, group, 1.) for iteration in iterations for group in (0, 1)])
        for name, iterations in (('first', (1, 2, 3, 4)), ('second', (3, ))))
    assert find_iterations([first, second]) == {1: first, 2: first, 3: second}
    assert find_iterations([]) == {}


def test_the_middle_of_a_large_group_may_be_left_out():
    group = Group([line(1, 0, float(total), response=f'text {total}') for total in range(9, 0, -1)])
    page = sections_as_html({'Best': [group]}, lambda path: None, shown=3)
    assert re.findall('text [0-9]', page) == ['text 9', 'text 8', 'text 1']
    assert '6 responses between these are not shown' in page
    page = sections_as_html({'Best': [group]}, lambda path: None, shown=9)
    assert page.count('<pre>') == 9 and 'left out' not in page


def test_notable_groups_by_hand():
    groups = [Group([line(1, number, total) for total in totals])
              for number, totals in enumerate([(2., 4.), (9., 9.), (0., 8.), (1., 1.)])]
    assert (groups[0].mean, groups[0].spread) == (3, 1)
    assert groups[0].title == 'Group 0 (id0): mean 3.000, spread 1.000'
    found = {kind: [group.rows[0]['group'] for group in some]
             for kind, some in notable_groups(groups, 2).items()}
    # Means 3, 9, 4, 1; spreads 1, 0, 4, 0.
    assert found == {'Best': [1, 2], 'Worst': [3, 0], 'Most contested': [2, 0]}
    assert len(notable_groups(groups, 9)['Best']) == 4


def test_no_text_leaves_its_place_in_the_page():
    row = line(1, 0, 1.0, response=HOSTILE, question=HOSTILE, image=HOSTILE, id=HOSTILE,
               failure='<b>', rewards={'<i>': 1.0})
    page = rollouts_as_html(1, {'Best': [Group([row])]}, lambda path: None)
    page.encode()  # no half surrogate is left
    tags = Tags(page)
    assert not tags.open and not tags.seen & {'script', 'b', 'i'}
    assert 'alert("x")' in tags.data and '& 苹果' in tags.data
    assert '\x1b' not in page and 'The image cannot be read' in page


def test_images_are_embedded_small():
    image = np.full((400, 1000, 3), (250, 0, 0), dtype=np.uint8)
    page = rollouts_as_html(1, {'Best': [Group([line(1, 0, 1.0)])]},
                            {'a.jpg': image}.__getitem__)
    (data, ) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (320, 128)
    assert np.allclose(np.array(shown)[64, 160], (250, 0, 0), atol=8), 'the colors are in order'
    assert 'http:' not in page and 'https:' not in page


def test_text_cannot_steer_a_terminal():
    rows = [line(7, 0, 1.5, response=HOSTILE, truncated=True, failure='no_answer'),
            line(7, 0, 0.25, signals=dict(s=0.5), image=None)]
    text = rollouts_as_text(7, {'Best': [Group(rows)]})
    assert text.startswith('Iteration 7\n')
    assert ('total 1.500  advantage -1.000  iou 1.500  s -  truncated  unusable answer: no_answer'
            in text)
    assert 'total 0.250  advantage -1.000  iou 0.250  s 0.500\n' in text
    assert '\x1b' not in text and '\n    | second line\n' in text


def test_all_turns_of_a_conversation_are_shown():
    talk = dict(turns=['look', HOSTILE], crops=[[1, 2, 3, 4]], bad_calls=['bad_box'],
                ended_by='answer', masks=0)
    rows = [line(7, 0, 1.0, response=HOSTILE, conversation=talk)]
    text = rollouts_as_text(7, {'Best': [Group(rows)]})
    assert ('    turn 1 (shown [1, 2, 3, 4]; bad call: bad_box; ended by: answer)\n    | look\n'
            '    turn 2\n    | </pre>') in text and '\x1b' not in text
    page = rollouts_as_html(7, {'Best': [Group(rows)]}, lambda path: None)
    assert '<pre>look</pre>' in page and '>turn 2<' in page and '<script>' not in page


def test_files_that_do_not_have_the_step(log, tmp_path):
    with pytest.raises(ValueError, match='no iteration 3: it holds 2 iteration.s. from 2 to 4'):
        read_step(log([line(2, 0, 1.), line(4, 0, 1.)]), 3)
    with pytest.raises(ValueError, match='holds no rollouts'):
        read_step(log([]))
    with pytest.raises(ValueError, match=r"should be a rollouts.jsonl .* without \['advantage'"):
        read_step(log([{'reward': 1.0, 'iter': 3}]))
    with pytest.raises(FileNotFoundError):
        read_step(str(tmp_path / 'none.jsonl'))
