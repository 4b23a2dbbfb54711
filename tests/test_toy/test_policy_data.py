# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The training data of the toy policies, and where their scripts write."""
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmdpad.prompts import parse_response
from mmdpad.structures import ReasoningOutput
from mmdpad.toy import WEIGHTS_DIR
from mmdpad.toy.shapes_world import GENERIC_CAPTIONS

TOOLS = Path(__file__).parents[2] / 'tools/toy'
MODULES = ('common', 'policy_data', 'policy_files')


@pytest.fixture
def make_answers(monkeypatch):
    """Prompts and parsed answers of some rows, by style of the maker."""
    # Other scripts have a module `common`, too.
    others = {name: sys.modules.pop(name, None) for name in MODULES}
    monkeypatch.syspath_prepend(str(TOOLS))
    from policy_data import RowMaker, loosen
    from policy_files import make_processor
    processor = make_processor()

    def make(rows=60, **style):
        maker, found = RowMaker(processor, 0, **style), []
        for _ in range(rows):
            row = maker(0.0)
            for tokens, asked in zip(row.tokens, row.asked, strict=True):
                prompt, answer = (processor.tokenizer.decode(part, skip_special_tokens=True)
                                  for part in (tokens[:asked], tokens[asked:]))
                found.append((prompt, parse_response(answer)))
        return found

    make.loosen = loosen
    yield make
    for name, module in others.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_answers_can_be_read(make_answers):
    assert all(isinstance(answer, ReasoningOutput) and answer.caption
               for _, answer in make_answers(rows=20))


def test_tied_captions_depend_on_the_reasoning_and_free_ones_do_not(make_answers):
    for tied in (True, False):
        generic = Counter(), Counter()
        for _, answer in make_answers(world='study', tied=tied):
            if answer.caption is not None:
                listed = answer.think.startswith('there is')
                generic[listed][answer.caption in GENERIC_CAPTIONS] += 1
        shares = [count[True] / count.total() for count in generic]
        # By TIED_SHARES 0.40 of focused reasoning and 0.68 of listing; else 0.54 of both.
        assert (shares[1] - shares[0] > 0.15) == tied, shares


def test_the_study_also_answers_without_a_caption(make_answers):
    answers = make_answers(world='study')
    without = [answer for prompt, answer in answers if prompt.startswith('which "')]
    assert 0.15 < len(without) / len(answers) < 0.35
    assert all(answer.caption is None and answer.box for answer in without)
    assert all(answer.caption for prompt, answer in answers if prompt.startswith('find "'))


def test_mistakes_name_another_object_than_was_asked_for(make_answers):
    def right(answers):
        asked = [(prompt.split('"')[1].removeprefix('the '), answer.think.split('it is the ')[-1])
                 for prompt, answer in answers]
        named = [(question, name.rstrip('.')) for question, name in asked
                 if len(question.split()) == 3 and question.split()[0] in ('big', 'small')]
        return sum(question == name for question, name in named) / len(named)

    assert right(make_answers(world='look_alikes')) == 1
    assert 0.3 < right(make_answers(world='look_alikes', mistakes=0.5)) < 0.7


def test_a_loose_box_is_larger_and_has_its_points_anywhere(make_answers):
    rng = np.random.default_rng(0)
    drawn = [make_answers.loosen([40, 50, 60, 70], rng) for _ in range(200)]
    # 2.2 * 10 to each side of (50, 60).
    assert all(box == [28, 38, 72, 82] for box, _ in drawn)
    points = np.array([points for _, points in drawn]).reshape(-1, 2)
    assert (points.min(0) >= (28, 38)).all() and (points.max(0) <= (72, 82)).all()
    assert (np.ptp(points, axis=0) > 40).all()
    assert make_answers.loosen([0, 90, 20, 110], rng)[0] == [0, 78, 32, 111]  # cut to the frame


def test_loose_boxes_come_with_a_list_of_all_objects(make_answers):
    areas = {True: [], False: []}
    for _, answer in make_answers(loose=0.75):
        sides = np.subtract(answer.box[2:], answer.box[:2])
        areas[answer.think.startswith('there is')].append(np.prod(sides))
    assert 0.65 < len(areas[True]) / 240 < 0.85
    assert 3 < np.mean(areas[True]) / np.mean(areas[False]) < 2.2**2  # the frame cuts some


def test_scripts_write_to_the_shipped_weights(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from arguments import WEIGHTS
    assert WEIGHTS == WEIGHTS_DIR
