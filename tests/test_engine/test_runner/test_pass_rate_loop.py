# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import shutil
from pathlib import Path

import pytest
from mmengine.runner import Runner

from mmdpad.datasets import DatasetError
from mmdpad.datasets.difficulty import pass_rates
from mmdpad.engine.runner.pass_rate_loop import measuring
from mmdpad.registry import DATASETS
from mmdpad.utils import read_jsonl, write_jsonl


def test_every_question_is_measured_once_and_nothing_is_trained(tiny_config, tmp_path):
    """5 questions in batches of 2; a file of the rates then filters the same data set."""
    dataset = tiny_config.train_dataloader.dataset
    dataset.update(num_samples=5, difficulty=dict(file='not/there.jsonl', min=0.5))
    config = measuring(tiny_config)
    runner = Runner.from_cfg(config)
    before = {name: value.clone() for name, value in runner.model.policy.state_dict().items()}
    runner.train()
    assert all(value.equal(before[name])
               for name, value in runner.model.policy.state_dict().items())
    assert not list(Path(runner.work_dir).glob('*.pth')) and runner.model.reference is None
    rows = list(read_jsonl(str(Path(runner.log_dir, 'rollouts.jsonl'))))
    assert 'discriminative' in rows[0]['rewards']
    # Larger than the median reward is taken for right, so that the rates differ.
    middle = sorted(row['rewards']['discriminative'] for row in rows)[len(rows) // 2]
    rates = pass_rates(rows, 'discriminative', middle)
    assert [rate['responses'] for rate in rates] == [4] * 5

    path = write_jsonl(str(tmp_path / 'rates.jsonl'), rates)
    bound = sorted(rate['pass_rate'] for rate in rates)[2]
    built = DATASETS.build(dict(dataset, difficulty=dict(file=path, min=bound)))
    assert len(built) == sum(rate['pass_rate'] >= bound for rate in rates) > 0
    assert len(DATASETS.build(dict(dataset, test_mode=True))) == 5


def test_a_term_that_the_run_has_not_ends_it_before_a_response(tiny_config):
    """Hooks add terms, so the loop knows them late. The reference is not needed."""
    hooks = tiny_config.custom_hooks
    tiny_config.custom_hooks = [*hooks, dict(type='SyncReferenceHook')]
    config = measuring(tiny_config, 'accuracy')
    assert config.custom_hooks == hooks
    runner = Runner.from_cfg(config)
    with pytest.raises(ValueError, match=r'should be a reward term of the run \(.*discriminative.*'
                                         r"\), but got 'accuracy'"):
        runner.train()
    assert not any(read_jsonl(str(path)) for path in Path(runner.log_dir).glob('rollouts.jsonl'))


@pytest.mark.slow
def test_data_sets_whose_questions_would_share_a_rate(tiny_config, shapes_data, tmp_path):
    """Both number their images alike."""
    shutil.copytree(shapes_data, tmp_path / 'copy')
    part = tiny_config.train_dataloader.dataset
    tiny_config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[
        part, dict(part, data_root=str(tmp_path / 'copy'))])
    with pytest.raises(DatasetError, match='estimate each data set, and each task, by itself'):
        Runner.from_cfg(measuring(tiny_config)).train()
