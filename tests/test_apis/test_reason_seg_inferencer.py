# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from mostly_slow import mostly_slow
from PIL import Image

from mmdpad.apis import ReasonSegInferencer
from mmdpad.cli.infer import format_answer
from mmdpad.datasets import DatasetError
from mmdpad.geometry.masks import decode_mask
from mmdpad.models import RolloutEngine, SharedPrefixRollout
from mmdpad.models.rollouts.continuous_batching import LOOKAHEAD
from mmdpad.models.rollouts.decoding import Decoding
from mmdpad.models.segmentors.box_instances import box_instances
from mmdpad.registry import INFERENCERS, MODELS
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

PHOTOS = Path(__file__).parents[1] / 'data' / 'photos' / 'val'
COFFEE = str(PHOTOS / 'coffee.jpg')
PIPELINE = [dict(type='LoadReasoningImage'), dict(type='LoadReasonSegMask'),
            dict(type='mmdpad.ModelImageResize', size=(32, 32)), dict(type='TargetsFromMask'),
            dict(type='PackReasoningInputs')]


class StubSegmentor(BaseModel):
    """Marks the left half of an image; a question with 'fail' gets an unusable response."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.calls = []

    def forward(self, inputs, data_samples, mode):
        assert mode == 'predict' and not self.training
        self.calls.append(len(data_samples))
        for image, prompt, sample in zip(inputs['image'], inputs['model_image'], data_samples,
                                         strict=True):
            assert prompt.shape == (3, 32, 32) and 'gt_instances' not in sample
            height, width = image.shape[1:]
            n = int('fail' not in sample.question)
            mask = torch.zeros(n, height, width, dtype=torch.bool)
            mask[:, :, :width // 2] = True
            parsed = ReasoningOutput('I looked', 'left half', (
                AnsweredObject((0, 0, 16, 32), ((1, 1), (2, 2))), ))
            sample.pred_instances = InstanceData(
                masks=mask, bboxes=torch.tensor([[0., 0., width / 2, height]])[:n],
                points=torch.tensor([[[1., 1.], [2., 2.]]])[:n], scores=torch.full((n,), 0.5))
            sample.reasoning = dict(response=f'answer to {sample.question}',
                                    seconds=dict(answer=2.0, draw=0.5), parsed=parsed
                                    if n else ParseFailure('no_answer', 'no block', think='hm'))
        return data_samples


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(MODELS._module_dict, 'StubSegmentor', StubSegmentor)
    return Config(dict(model=dict(type='StubSegmentor'),
                       test_dataloader=dict(collate_fn=dict(type='pseudo_collate'),
                                            dataset=dict(pipeline=PIPELINE))))


@pytest.fixture
def infer(config):
    return ReasonSegInferencer(config, device='cpu')


def test_one_image_one_question(infer):
    answer, = infer(COFFEE, 'What stirs it?')
    seconds = answer.pop('seconds')
    assert seconds.pop('prepare') > 0 and seconds == dict(answer=2.0, draw=0.5)
    assert answer.pop('mask').tolist() == [[True] * 300 + [False] * 300] * 400
    found = dict(box=[0, 0, 300, 400], points=[[1, 1], [2, 2]], score=0.5)
    assert answer == dict(
        image=COFFEE, question='What stirs it?', **found, objects=[found],
        caption='left half', reasoning='I looked', response='answer to what stirs it?',
        failure=None, answer=None)


class StubDetector(StubSegmentor):
    """Finds a cup, if the question's task is detection."""

    tasks = dict(segmentation=None, detection=None)

    def forward(self, inputs, data_samples, mode):
        for sample in super().forward(inputs, data_samples, mode):
            if sample.get('task') == 'detection':
                del sample.pred_instances.masks, sample.pred_instances.points
                sample.pred_instances.label_names = ['cup']
                sample.pred_instances.descriptions = ['the white one']
        return data_samples


def test_a_task_without_masks(config, monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS._module_dict, 'StubSegmentor', StubDetector)
    infer = ReasonSegInferencer(config, device='cpu')
    answer, = infer(COFFEE, 'cup', task='detection', out_dir=str(tmp_path))
    assert answer['mask'] is None and answer['failure'] is None
    (found, ) = answer['objects']
    assert (found['label'], found['description'], found['points']) == ('cup', 'the white one', [])
    (row, ) = map(json.loads, (tmp_path / 'results.jsonl').read_text().splitlines())
    assert row['mask'] is None and row['label'] == 'cup'
    assert infer(COFFEE, 'cup')[0]['mask'] is not None
    for ask in (infer, infer.stream):
        with pytest.raises(ValueError, match=r"\(segmentation, detection\), but got 'vqa'"):
            ask(COFFEE, 'cup', task='vqa')


class StubAnswerer(StubSegmentor):
    """Answers in words, with evidence."""

    def forward(self, inputs, data_samples, mode):
        for sample in super().forward(inputs, data_samples, mode):
            sample.pred_instances = box_instances(
                [AnsweredObject((0, 0, 16, 32), None)], sample, (400, 600), (32, 32))[0]
            sample.reasoning['parsed'] = ReasoningOutput('I looked', 'a cup', (), 'two cups')
        return data_samples


def test_an_answer_in_words(config, monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS._module_dict, 'StubSegmentor', StubAnswerer)
    answer, = ReasonSegInferencer(config, device='cpu')(COFFEE, 'What?', out_dir=str(tmp_path))
    evidence = dict(box=[0, 0, 300, 400], points=[], score=1.0)
    assert (answer['answer'], answer['objects'], answer['mask']) == ('two cups', [evidence], None)
    (row, ) = map(json.loads, (tmp_path / 'results.jsonl').read_text().splitlines())
    assert row['answer'] == 'two cups' and (tmp_path / row['picture']).is_file()
    assert re.search('answer +two cups\n +box ', format_answer(answer, 'x.png'))


@pytest.mark.parametrize('step', ['LoadInstanceMasks', 'TargetsFromSolution'])
def test_no_step_of_any_data_set_needs_the_truth(config, step):
    config.test_dataloader.dataset.pipeline[1] = dict(type=step)
    assert ReasonSegInferencer(config, device='cpu')(COFFEE, 'a?')[0]['failure'] is None


def test_an_unusable_response_is_a_result(infer):
    good, bad = infer(COFFEE, ['a?', 'fail'], return_vis=True)
    assert bad['failure'] == 'no_answer: no block' and bad['reasoning'] == 'hm'
    assert bad['mask'].shape == (400, 600) and not bad['mask'].any()
    assert bad['box'] is bad['points'] is bad['score'] is bad['caption'] is None
    assert bad['objects'] == []
    assert good['failure'] is None
    assert bad['visualization'].shape[1] == good['visualization'].shape[1] == 600


def test_batches_keep_the_order_and_mix_sizes(infer):
    images = [COFFEE, np.zeros((20, 10, 3), np.uint8), Image.new('RGB', (8, 6))]
    answers = infer(images, 'where?', batch_size=2)
    assert infer.model.calls == [2, 1]
    assert [a['mask'].shape for a in answers] == [(400, 600), (20, 10), (6, 8)]
    assert [a['image'] for a in answers] == [COFFEE, None, None]
    assert 'visualization' not in answers[0]


def test_files_are_written_and_kept(infer, tmp_path):
    out = tmp_path / 'new' / 'out'
    for _ in range(2):
        answers = infer([COFFEE, np.zeros((20, 10, 3), np.uint8)], 'where?', out_dir=str(out))
    assert sorted(p.name for p in out.iterdir()) == [
        'coffee.png', 'coffee_2.png', 'image.png', 'image_2.png', 'results.jsonl',
        'results_2.jsonl']
    rows = [json.loads(line) for line in (out / 'results_2.jsonl').read_text().splitlines()]
    assert [row['picture'] for row in rows] == ['coffee_2.png', 'image_2.png']
    np.testing.assert_array_equal(decode_mask(rows[1]['mask']), answers[1]['mask'])
    assert rows[0]['caption'] == 'left half' and 'visualization' not in answers[0]
    assert Image.open(out / 'coffee.png').size[0] == 600


def test_nothing_is_done_where_anything_is_wrong(infer, tmp_path):
    for images, question, error in (([COFFEE, 'none.jpg'], 'a?', DatasetError),
                                    ([COFFEE] * 3, ['a?'] * 2, ValueError),
                                    (COFFEE, '', ValueError)):
        with pytest.raises(error):
            infer(images, question, out_dir=str(tmp_path / 'out'))
    for size in (0, True, 1.5):
        with pytest.raises(ValueError, match=f'`batch_size` should be .*, but got {size}'):
            infer(COFFEE, 'a?', batch_size=size)
    assert infer.model.calls == [] and not (tmp_path / 'out').exists()


def test_weights_of_a_checkpoint(config, tmp_path):
    path = tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=dict(gain=torch.full((1,), 3.0)), meta={}), path)
    assert ReasonSegInferencer(config, str(path), 'cpu').model.gain.item() == 3.0
    assert ReasonSegInferencer(config, device='cpu').model.gain.item() == 1.0
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), path)
    with pytest.raises(ValueError, match=r'1 missing \(gain\); 1 unexpected \(other\)'):
        ReasonSegInferencer(config, str(path), 'cpu')
    with pytest.raises(FileNotFoundError, match='none.pth'):
        ReasonSegInferencer(config, 'none.pth', 'cpu')


def test_a_config_file_and_its_own_pipeline(config, tmp_path):
    config.inference_pipeline = [PIPELINE[0], dict(type='ModelImageResize', size=(32, 32)),
                                 PIPELINE[4]]
    config.test_dataloader = None
    config.dump(tmp_path / 'config.py')
    infer = INFERENCERS.build(dict(type='ReasonSegInferencer', device='cpu',
                                   model_config=str(tmp_path / 'config.py')))
    assert infer(COFFEE, 'a?')[0]['failure'] is None
    with pytest.raises(FileNotFoundError, match='no/config.py'):
        ReasonSegInferencer('no/config.py')


def test_progress_bar(config, capsys):
    ReasonSegInferencer(config, device='cpu', show_progress=True)(COFFEE, ['a?', 'b?'])
    assert '100%' in capsys.readouterr().out


def test_a_folder(infer, tmp_path):
    for name in ('b.PNG', 'a.jpg'):
        Image.new('RGB', (8, 6)).save(tmp_path / name)
    (tmp_path / 'notes.txt').touch()
    answers = infer(tmp_path, 'where?')
    assert [Path(a['image']).name for a in answers] == ['a.jpg', 'b.PNG']


def test_lines_are_there_as_soon_as_their_answers(infer, tmp_path, monkeypatch):
    forward = infer.model.forward

    def fails_at_the_third(*args, **kwargs):
        if len(infer.model.calls) == 2:
            raise RuntimeError('out of memory')
        return forward(*args, **kwargs)

    monkeypatch.setattr(infer.model, 'forward', fails_at_the_third)
    with pytest.raises(RuntimeError, match='out of memory'):
        infer(COFFEE, ['a?', 'b?', 'c?'], out_dir=str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    assert [line['question'] for line in lines] == ['a?', 'b?']


def test_a_notebook_shows_the_picture(infer):
    answer, = infer(COFFEE, 'a?', return_vis=True)
    assert answer._repr_png_().startswith(b'\x89PNG')
    assert (answer.draw() == answer['visualization']).all()


def test_closed_at_the_end_of_with(config):
    with ReasonSegInferencer(config, device='cpu') as infer:
        assert infer(COFFEE, 'a?')
    assert infer.model is None
    for ask in (infer, infer.stream):
        with pytest.raises(RuntimeError, match='was closed; make a new one'):
            ask(COFFEE, 'a?')


@pytest.fixture(scope='module')
def scenes(shapes_data):
    """Pairs of an image and a question, of which some have longer answers than others."""
    images = sorted((shapes_data / 'test').glob('*.jpg'))
    questions = ['the red circle', 'the object nearest to the left edge', 'the largest object']
    return [str(image) for image in images for _ in questions], questions * len(images)


@pytest.fixture(scope='module')
def toy():
    return ReasonSegInferencer('tiny_shapes', device='cpu')


def without_times(answers):
    found = [{name: value for name, value in answer.items() if name not in ('seconds', 'mask')}
             for answer in answers]
    return found, [answer['mask'].sum() for answer in answers]


@pytest.mark.parametrize('temperature', mostly_slow([0.0, 1.0], fast=[1.0]))
def test_answers_are_those_of_one_question_after_the_other(toy, scenes, temperature, monkeypatch):
    """Whatever the batch size and the order are, with as many questions at a time as it says."""
    monkeypatch.setitem(toy.model.test_cfg, 'temperature', temperature)
    images, questions = scenes
    single = without_times([toy(*one)[0] for one in zip(images, questions, strict=True)])
    assert len({answer['response'] for answer in single[0]}) > 6
    rows, decode = [], Decoding.__call__

    def spy(self, cache, *given):
        rows.append(len(cache.owners))
        return decode(self, cache, *given)

    monkeypatch.setattr(Decoding, '__call__', spy)
    for size in (4, 50.0):
        rows.clear()
        assert without_times(toy(images, questions, batch_size=size)) == single
        assert max(rows) == min(size, len(images))
    turned = without_times(toy(images[::-1], questions[::-1], batch_size=3))
    assert [some[::-1] for some in turned] == list(single)


def test_one_of_several_answers(toy, scenes, tmp_path):
    """The chosen one is the answer; other calls are not affected, and nor is the config."""
    images, questions = (some[:2] for some in scenes)
    alone = without_times(toy(images, questions))
    answers = toy(images, questions, batch_size=2, samples=4, select='consensus',
                  out_dir=str(tmp_path))
    assert without_times(toy(images, questions)) == alone and toy.model.choice is None
    lines = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    for answer, line in zip(answers, lines, strict=True):
        chosen, = (one for one in answer['samples'] if one['chosen'])
        assert len(answer['samples']) == 4 and not answer['abstained']
        assert chosen['response'] == answer['response']
        assert chosen['value'] == max(one['value'] for one in answer['samples'] if one['usable'])
        assert (chosen['mask'] == answer['mask']).all()
        assert len(answer.regions.other_masks) == sum(
            one['usable'] for one in answer['samples']) - 1
        for one, stored in zip(answer['samples'], line['samples'], strict=True):
            assert (decode_mask(stored['mask']) == one['mask']).all()
    assert '(values ' in format_answer(answers[0], 'a.png')

    *pieces, streamed = toy.stream(images[0], questions[0], samples=4, select='consensus')
    assert not pieces and streamed['response'] == answers[0]['response']
    rejected, = toy(images[0], questions[0], samples=2, select='discrimination', abstain_below=2.5)
    assert rejected['abstained'] and not rejected['mask'].any() and rejected['objects'] == []
    assert rejected['failure'].startswith('abstained: the best of 2 answers has the value')
    used = [kept.choice.selector for kept in toy._choosings.values()]
    assert used[-1].reward.configs[0]['model_name'].startswith('local-dir:')  # the toy's own CLIP


@pytest.mark.parametrize('asked, told', [
    (dict(samples=0, select='consensus'), 'num_samples` should be at least 1'),
    (dict(samples=4), 'select` should say how to choose'),
    (dict(select='consensus'), 'num_samples` should be set where'),
    (dict(samples=4, select='best'), 'select` should be one of'),
    *((dict(samples=4, **how), "`select` and .* should not need the ground truth.*'oracle'")
      for how in (dict(select='oracle'), dict(select='consensus', abstain_below=0.3,
                                              abstain_by='oracle')))])
def test_choices_that_cannot_be_made(toy, asked, told):
    for ask in (toy, toy.stream):
        with pytest.raises(ValueError, match=told):
            ask(COFFEE, 'a?', **asked)


def test_only_a_reasoning_segmentor_chooses(infer):
    with pytest.raises(ValueError, match='`samples` needs a ReasoningSegmentor.* StubSegmentor'):
        infer(COFFEE, 'a?', samples=2, select='consensus')


def test_an_engine_without_a_stream(toy, scenes, monkeypatch):
    images, questions = (some[:5] for some in scenes)
    expected = without_times(toy(images, questions))
    called, sample = [], SharedPrefixRollout.sample

    def spy(self, head, prompts, how):
        called.append(len(prompts))
        return sample(self, head, prompts, how)

    monkeypatch.setattr(SharedPrefixRollout, 'sample', spy)
    monkeypatch.setattr(SharedPrefixRollout, 'sample_stream', RolloutEngine.sample_stream)
    assert without_times(toy(images, questions, batch_size=2)) == expected
    assert called == [2, 2, 1]


def test_few_images_are_in_memory(toy, scenes, monkeypatch):
    ahead, prepared, answered = [], 0, 0
    preprocess, forward = toy.preprocess, toy.forward

    def count_prepared(items, size):
        nonlocal prepared
        prepared += size
        ahead.append(prepared - answered)
        return preprocess(items, size)

    def count_answered(batch):
        nonlocal answered
        answered += len(batch['data_samples'])
        return forward(batch)

    monkeypatch.setattr(toy, 'preprocess', count_prepared)
    monkeypatch.setattr(toy, 'forward', count_answered)
    toy(*scenes, batch_size=2)
    assert 4 <= max(ahead) <= 2 * (LOOKAHEAD + 1) < len(scenes[0]) == answered


def test_what_was_asked_before_an_image_that_is_gone_is_written(toy, scenes, tmp_path,
                                                                monkeypatch):
    """It was there when the call began; the questions after it are not asked."""
    images, questions = ([*some[:7]] for some in scenes)
    images[5] = str(tmp_path / 'gone.jpg')
    Path(images[5]).write_bytes(Path(images[0]).read_bytes())
    preprocess = toy.preprocess

    def removing(*given):
        Path(images[5]).unlink(missing_ok=True)
        return preprocess(*given)

    monkeypatch.setattr(toy, 'preprocess', removing)
    with pytest.raises(DatasetError, match='gone.jpg'):
        toy(images, questions, batch_size=2, out_dir=str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / 'results.jsonl').read_text().splitlines()]
    assert [row['question'] for row in rows] == questions[:4]
    assert toy(images[:1], questions[:1])  # it can be used again


def test_a_short_call_need_not_wait_for_a_long_one(infer, monkeypatch):
    """It gets its turn after the batches that were asked."""
    order, forward = [], infer.model.forward

    def recording(inputs, data_samples, mode):
        order.append(data_samples[0].question)
        if len(order) == 1:
            other.start()
            while not infer._turns.wanted:
                pass
        return forward(inputs, data_samples, mode)

    other = threading.Thread(target=infer, args=(COFFEE, 'short?'))
    monkeypatch.setattr(infer.model, 'forward', recording)
    questions = [f'long {number}?' for number in range(5)]
    assert [answer['question'] for answer in infer(COFFEE, questions)] == questions
    other.join()
    assert order == ['long 0?', 'short?', *questions[1:]]
