# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmdpad.engine.runner.encoding import (
    build_encoding_dataloader,
    check_tasks,
    find_long_prompts,
    tasks_asked,
)
from mmdpad.models.heads.prompt_encoder import EncodingCollate, PromptEncoder
from mmdpad.registry import DATASETS
from mmdpad.tasks import WrongTask, build_tasks


@pytest.fixture
def encoded(monkeypatch):
    """Questions that this process encodes with an image; a worker's are added to the worker's copy.
    The check before a run encodes one with a blank image."""
    questions, encode = [], PromptEncoder.__call__

    def spy(encoder, image, question, task=None):
        if image.any():
            questions.append(question)
        return encode(encoder, image, question, task)

    monkeypatch.setattr(PromptEncoder, '__call__', spy)
    return questions


@pytest.mark.parametrize('workers', [0, 1])
def test_training_encodes_where_data_is_loaded(tiny_config, encoded, workers):
    tiny_config.train_cfg.max_iters = 1
    tiny_config.train_dataloader.num_workers = workers
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    assert len(encoded) == (0 if workers else 2)
    if workers:  # left to the garbage collection of a later test it would be waited for
        runner.train_loop.dataloader_iterator._iterator._shutdown_workers()


def test_a_test_encodes_where_data_is_loaded(tiny_config, encoded):
    tiny_config.test_dataloader.num_workers = 1
    assert Runner.from_cfg(tiny_config).test()['reasonseg/n'] == 6
    assert not encoded


def test_the_collate_survives_the_way_to_a_spawned_worker(head, tiny_config):
    dataset = Runner.build_dataloader(tiny_config.test_dataloader).dataset
    collate = EncodingCollate(head.encoder, pseudo_collate)
    there = pickle.loads(pickle.dumps(collate))
    ours, theirs = (function([dataset[0]])['inputs']['prompt'][0] for function in (collate, there))
    assert torch.equal(ours.input_ids, theirs.input_ids)
    assert torch.equal(ours.pixel_values, theirs.pixel_values)


def test_a_model_without_an_encoder_keeps_its_loader(head):
    loader = DataLoader([0, 1])
    collate = loader.collate_fn
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1))
    assert build_encoding_dataloader(runner, loader) is loader and loader.collate_fn is collate

    runner.model.policy = head
    for _ in range(2):  # a loader that is used again is not wrapped again
        build_encoding_dataloader(runner, loader)
        assert loader.collate_fn.collate is collate


def test_data_of_several_objects_needs_a_model_that_answers_with_a_list(tiny_config):
    tiny_config.train_dataloader.dataset.several_objects = True
    runner = Runner.from_cfg(tiny_config)
    with pytest.raises(ValueError, match="`several_objects` of the task 'segmentation' should "):
        runner.train()
    runner.model.tasks['segmentation'].several_objects = True
    build_encoding_dataloader(runner, tiny_config.train_dataloader)


def test_the_model_needs_the_tasks_of_each_part_of_the_data(tiny_config):
    part = dict(tiny_config.train_dataloader.dataset)
    tiny_config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        dict(part, task='segmentation'), dict(part, task='detection')])
    with pytest.raises(WrongTask, match=r"\(segmentation\), but got 'detection'"):
        Runner.from_cfg(tiny_config).train()
    tasks = build_tasks(dict(segmentation=dict(type='SegmentationTask'),
                             detection=dict(type='DetectionTask')))
    dataset = DATASETS.build(tiny_config.train_dataloader.dataset)
    check_tasks(tasks, dataset)
    assert tasks_asked(dataset) == ['segmentation', 'detection']
    assert dataset[0]['data_samples'].task == 'segmentation'
    dataset.datasets[1].several_objects = dataset.datasets[0].several_objects = True
    with pytest.raises(WrongTask, match="`several_objects` of the task 'segmentation' should be"):
        check_tasks(tasks, dataset)


def test_the_prompts_of_each_task_are_measured(tiny_config, head):
    encoder = copy.copy(head.encoder)
    encoder.templates = dict(segmentation='find "{question}"',
                             detection='find "{question}"' + ' and so on' * 40)
    encoder.max_tokens = 120
    part = dict(tiny_config.train_dataloader.dataset)
    for task, number in (('segmentation', 0), ('detection', 1)):
        dataset = DATASETS.build(dict(part, task=task))
        problems = find_long_prompts(encoder, dataset)
        assert len(problems) == number and all('120 tokens' in problem for problem in problems)


@pytest.mark.parametrize('part, change', [
    ('train', {'model.policy.max_prompt_tokens': 60}), ('test', {'model_image_size': (112, 120)})])
def test_prompts_that_do_not_fit_stop_a_run_before_it_starts(tiny_config, encoded, part, change):
    """The question is counted and the image's size checked; no image is loaded."""
    message = r'has \d+ with its image of \(height, width\) = \(112, 112\)'
    if 'model_image_size' in change:
        message = r'\(height, width\) = \(120, 112\) becomes'
        (step, ) = [step for step in tiny_config.test_dataloader.dataset.pipeline
                    if step.type == 'ModelImageResize']
        step.size = change['model_image_size']
    else:
        tiny_config.merge_from_dict(change)
    runner = Runner.from_cfg(tiny_config)
    with pytest.raises(ValueError, match=message):
        runner.train() if part == 'train' else runner.test()
    assert not encoded
