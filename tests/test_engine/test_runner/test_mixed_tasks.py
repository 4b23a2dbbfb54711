# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Two tasks in one run, with a term that keeps state for one of them."""
import copy
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.models.weights import load_safe
from mmdpad.utils import read_jsonl


@pytest.fixture
def mixed_config(tiny_config):
    one = dict(tiny_config.train_dataloader.dataset, num_samples=1)  # of each in every batch
    tiny_config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        dict(one, task='single'), dict(one, task='several', several_objects=True)])
    tiny_config.model.policy.prompt_template = 'default'
    tiny_config.model.tasks = dict(
        single=dict(type='SegmentationTask', template='find "{question}"'),
        several=dict(type='SegmentationTask', template='all "{question}"', several_objects=True))
    tiny_config.train_cfg.update(max_refills=1, advantage='reinforce++')
    tiny_config.train_cfg.rewards = dict(
        form=dict(type='ThinkingFormatReward'),
        box=dict(type='BoxIoUReward', threshold=None, tasks=['single']),
        rank=dict(type='QuantileReward', tasks=['several'], lowest=-1.0,
                  term=dict(type='ReasoningLengthReward', soft=1, hard=300)))
    tiny_config.custom_hooks[0].tasks = ['single']
    return tiny_config


def train(config, name, **changes):
    config = copy.deepcopy(config)
    config.work_dir, config.experiment_name = f'{config.work_dir}_{name}', f'mixed_{name}'
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_terms_of_two_tasks_are_resumed_exactly(mixed_config):
    whole = train(mixed_config, 'whole')
    train(mixed_config, 'parts', **{'train_cfg.max_iters': 1})
    resumed = train(mixed_config, 'parts', resume=True)
    states = [load_safe(f'{runner.work_dir}/iter_2.pth') for runner in (whole, resumed)]
    assert all(value.equal(states[1]['state_dict'][name])
               for name, value in states[0]['state_dict'].items())
    kept = [runner.train_loop.composition.state_dict()['rank']['values']
            for runner in (whole, resumed)]
    assert kept[0] == kept[1]
    rows = [row for path in Path(whole.work_dir).glob('*/rollouts.jsonl')
            for row in read_jsonl(str(path))]
    for row in rows:
        single, rewards = row['task'] == 'single', row['rewards']
        assert rewards['form'] is not None
        assert [rewards[name] is not None for name in ('box', 'discriminative', 'rank')] == [
            single, single, not single]
        assert torch.tensor([row['total'], row['advantage']]).isfinite().all()
    assert {row['task'] for row in rows} == {'single', 'several'}
