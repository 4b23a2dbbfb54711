# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the demo page does, without gradio."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from strangers import header_only

from mmdpad.apis import Answer
from mmdpad.apis.demo_page import asking, markup
from mmdpad.apis.demo_page.asking import (
    Model,
    Shown,
    answer,
    ask,
    reasoning_in,
    shared_tasks,
)
from mmdpad.apis.demo_page.examples import write_examples
from mmdpad.apis.demo_page.inputs import UnusableInput, check_question, read_upload
from mmdpad.apis.demo_page.loading import load_model
from mmdpad.utils import find_config, open_config
from mmdpad.visualization.regions import BOX

MARKUP = '<img src=x onerror=alert(1)> {{7*7}} ${1+1}'
IMAGE = np.full((20, 30, 3), 200, np.uint8)
OBJECT = dict(box=[0., 0., 15., 10.], points=[[2, 2], [4, 4]], score=0.9)


class StubInferencer:
    """Streams pieces; an exception among them is raised."""

    def __init__(self, *pieces):
        self.pieces, self.closed = pieces, 0

    def stream(self, image, question, task=None):
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed += 1


def an_answer(**items):
    return Answer(IMAGE, **dict(dict(
        response='<think>hm</think>', reasoning='hm', caption='a dog', failure=None,
        objects=[OBJECT], mask=np.zeros((20, 30), bool),
        seconds=dict(prepare=0.1, answer=1.5, draw=0.25)), **items))


def halves(pictures, captions):
    return torch.tensor([[0.75], [0.25]])


@pytest.fixture
def png(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / 'image.png')
    return str(tmp_path / 'image.png')


def test_answers_to_choose_from_are_listed():
    def sample(text, **items):
        return dict(dict(response=text, value=0.25, usable=True, chosen=False, mask=None), **items)

    infer = StubInferencer(an_answer(samples=[
        sample('so <caption>a <b> dog</caption>', chosen=True), sample('hm', value=None),
        sample('x', usable=False, value=None)]))
    asked, stream = [], infer.stream
    infer.stream = lambda *given, **how: asked.append(how) or stream(*given)
    *_, last = answer(Model('m', infer), IMAGE, 'what?', None, 3, 'consensus')
    assert asked == [dict(samples=3, select='consensus')]
    assert last.samples == [('1 (chosen)', '0.25', 'a <b> dog'), ('2', 'none', 'hm'),
                            ('3', 'unusable', 'x')]
    assert '<td>a &lt;b&gt; dog</td>' in markup.details(last)
    list(answer(Model('m', infer), IMAGE, 'what?'))
    assert asked[-1] == {}


def test_an_image_is_read(png):
    assert (read_upload(png, 600) == IMAGE).all()


@pytest.mark.parametrize('content, message', [
    (header_only(30, 21), 'should have at most 0.0006 megapixels, but is 30 x 21'),
    (header_only(60000, 60000), 'at most .* but is far larger'),  # a decompression bomb
    (header_only(30, 20), 'cannot be read as an image'),
    (b'', 'cannot be read'), (b'hello', 'cannot be read'), (b'\x89PNG\r\n\x1a\n?', 'cannot be'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'cannot be read')])
def test_what_is_no_image_or_too_large_is_refused(content, message, tmp_path, monkeypatch):
    if 'megapixels' in message or 'far' in message:
        monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda self: pytest.fail('decoded'))
    (tmp_path / 'image.png').write_bytes(content)
    with pytest.raises(UnusableInput, match=message) as error:
        read_upload(tmp_path / 'image.png', 600)
    assert str(tmp_path) not in str(error.value)


def test_questions():
    assert check_question('What is it?') == 'What is it?'
    for text, message in ((None, 'Type a question'), (' . ', 'Type a question'),
                          ('x' * 501, 'at most 500 characters, but has 501')):
        with pytest.raises(UnusableInput, match=message):
            check_question(text)


def test_the_page_sees_the_text_grow_and_the_answer(monkeypatch):
    monkeypatch.setattr(asking, 'INTERVAL', 0)
    model = Model('m', StubInferencer('<think>h', '<think>hm', an_answer()), halves)
    first, one, two, last = answer(model, IMAGE, 'what?')
    assert 'Looking' in first.status
    assert [one.reasoning, two.reasoning] == ['h', 'hm'] and two.response == '<think>hm'
    assert 'Answered' in last.status and not last.failed and last.similarities == (0.75, 0.25)
    assert (last.caption, last.reasoning) == ('a dog', 'hm')
    assert last.facts == {'Decoder score': '0.900',
                          'Seconds': 'prepare 0.10, answer 1.50, draw 0.25'}
    assert last.picture.shape[:2] == (341, 512) and last.picture.dtype == np.uint8


def test_texts_that_come_quickly_are_shown_at_intervals():
    model = Model('m', StubInferencer(*['<think>' + 'h' * n for n in range(1, 1000)], an_answer()))
    assert len(list(answer(model, IMAGE, 'what?'))) < 50


def test_an_unusable_response_is_shown_with_its_reasoning():
    model = Model('m', StubInferencer(an_answer(
        failure='no_answer: there is no <answer> block', reasoning=None, caption=None, objects=[],
        response='a circle can roll.</think>')), halves)
    *_, last = answer(model, IMAGE, 'what?')
    assert last.failed and last.picture is None and last.similarities is None
    assert last.status == ('The response cannot be used: no_answer: there is no <answer> block')
    assert last.reasoning == 'a circle can roll.'


def test_an_answer_that_nothing_is_meant():
    model = Model('m', StubInferencer(an_answer(objects=[])), halves)
    *_, last = answer(model, IMAGE, 'what?')
    assert 'the question refers to nothing' in last.status and last.picture is not None


def test_a_detection_has_a_table_and_an_answer_in_words_is_no_refusal():
    cup = dict(OBJECT, points=[], label=MARKUP, description='blue')
    model = Model('m', StubInferencer(an_answer(objects=[cup] * 200, mask=None, caption=None)),
                  halves)
    *_, last = answer(model, IMAGE, 'cup', 'detection')
    assert last.objects[0] == (MARKUP, 0.9, 'blue') and 'Decoder score' not in last.facts
    assert ('box', BOX) in last.legend and 'labels left out' in last.legend[-1][0]
    html = markup.details(last)
    assert html.count('<tr>') == 1 + 100 and '100 more are not shown' in html
    assert '<img' not in html and '{{' not in html and '${' not in html
    model = Model('m', StubInferencer(an_answer(objects=[], mask=None, answer='red')), halves)
    *_, last = answer(model, IMAGE, 'what color?')
    assert last.facts['Answer'] == 'red' and 'refers to nothing' not in last.status
    assert last.note == asking.NO_SIMILARITIES


def test_a_task_can_be_chosen_that_all_models_have():
    models = [Model('m', SimpleNamespace(model=SimpleNamespace(tasks=dict.fromkeys(names))))
              for names in ('abc', 'dcb', 'b')]
    assert shared_tasks(models[:1]) == ['a', 'b', 'c'] and shared_tasks(models[:2]) == ['b', 'c']
    assert shared_tasks(models) == [], 'no choice'
    assert shared_tasks([Model('m', SimpleNamespace(model=None))]) == []


def test_without_similarities_the_page_says_why():
    *_, last = answer(Model('m', StubInferencer(an_answer()), note='none'), IMAGE, 'what?')
    assert last.similarities is None and last.note == 'none'
    outside = dict(OBJECT, box=[99., 0., 120., 9.])
    *_, last = answer(Model('m', StubInferencer(an_answer(objects=[outside])), halves), IMAGE, '?')
    assert last.similarities is None and last.note == asking.NO_SIMILARITIES


def test_an_error_is_short_on_the_page_and_complete_in_the_terminal(capsys):
    error = RuntimeError('out of memory' + '!' * 300 + '\nmore')
    *_, last = answer(Model('m', StubInferencer('<think>hm', error)), IMAGE, 'what?')
    assert last.failed and last.status.startswith('The model failed. RuntimeError: out of memory!')
    assert 'more characters' in last.status and last.reasoning == 'hm'
    assert 'Traceback' in capsys.readouterr().err


def test_closing_ends_the_sampling(png):
    first, second = StubInferencer('a', 'b', an_answer()), StubInferencer(an_answer())
    steps = ask([Model('1', first), Model('2', second)], png, 'what?', 600)
    while next(steps)[1][0].response != 'a':
        pass
    steps.close()
    assert (first.closed, second.closed) == (1, 0)


def test_two_models_answer_in_turn_and_one_may_fail(png):
    models = [Model('1', StubInferencer(ValueError('no'))), Model('2', StubInferencer(an_answer()))]
    steps = [columns for problem, columns in ask(models, png, 'what?', 600) if not problem]
    assert [column.status for column in steps[0]] == ['Looking at the image ...',
                                                     'Waiting for its turn ...']
    assert steps[-1][0].failed and steps[-1][1].picture is not None


def test_bad_input_is_reported_before_a_model_is_asked(png):
    model = Model('1', StubInferencer())
    for path, question, message in ((None, 'what?', 'Choose an image'), (png, '', 'Type a')):
        (problem, columns), = ask([model], path, question, 600)
        assert problem.startswith(message) and columns == [Shown()]
    assert not model.infer.closed


@pytest.mark.parametrize('text, reasoning', [
    ('', ''), ('<think>a b', 'a b'), ('<think> a </think>\n<answer>', 'a'), ('a</think>b', 'a'),
    ('x<think>a', 'a')])
def test_the_reasoning_so_far(text, reasoning):
    assert reasoning_in(text) == reasoning


def test_what_a_model_writes_is_no_markup():
    shown = Shown(status=MARKUP, facts={MARKUP: MARKUP}, note=MARKUP, failed=True)
    for html in (markup.status(shown), markup.details(shown), markup.notice(MARKUP)):
        assert '<img' not in html and '{{' not in html and '${' not in html
        assert '&lt;img src=x onerror=alert(1)&gt;' in html


def test_bars_have_the_ratio_of_the_similarities():
    html = markup.bars(0.5, 0.25)
    assert 'width:100.0%' in html and 'width:50.0%' in html and 'better than' in html
    assert '(+0.250)' in html and '0.500' in html
    html = markup.bars(-0.4, -0.1)
    assert html.count('width:0.0%') == 2 and 'no better than' in html and '(-0.300)' in html


def test_examples_are_images_with_questions(tmp_path):
    examples = write_examples(tmp_path, 3)
    assert len(examples) == 3 and all(check_question(question) for _, question in examples)
    assert read_upload(examples[0][0], 10**6).shape == (160, 120, 3)


def test_the_toy_has_a_discriminator():
    model = load_model(find_config('tiny_shapes'), None, 'cpu')
    assert model.name == 'tiny_shapes, start weights' and model.discriminator is not None
    with pytest.raises(SystemExit, match='cannot be loaded'):
        load_model(find_config('tiny_shapes'), 'no.pth', 'cpu')


@pytest.mark.parametrize('change', [dict(type='Nope'), dict(nope=1)])
def test_a_wrong_discriminator_costs_the_similarities_only(change, tmp_path, capsys):
    config = open_config(find_config('tiny_shapes'))
    config.custom_hooks[0].discriminator.update(change)
    config.dump(tmp_path / 'mine.py')
    model = load_model(str(tmp_path / 'mine.py'), None, 'cpu')
    assert model.discriminator is None and 'the discriminator cannot be loaded' in model.note
    assert 'ope' in capsys.readouterr().out


def test_a_config_without_a_discriminator_is_reported():
    model = load_model(find_config('tiny_shapes_sft'), None, 'cpu')
    assert model.discriminator is None and 'names no discriminator' in model.note
