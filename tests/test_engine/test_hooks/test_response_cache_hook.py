# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.engine.hooks.response_cache_hook import (
    describe_maker,
    digest_weights,
    find_answers,
    prompt_keys,
)
from mmdpad.models import SharedPrefixRollout
from mmdpad.registry import HOOKS, MODELS
from mmdpad.utils import read_jsonl

ROOT = Path(__file__).parents[3]
SEVERAL = dict(num_samples=3, temperature=1.0, select='likelihood')


class PowerCut(Exception):
    pass


@HOOKS.register_module(force=True)
class PowerCutHook(Hook):
    priority = 'LOWEST'

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 1:
            raise PowerCut


@pytest.fixture
def generated(monkeypatch):
    """Numbers of prompts that were answered at a time."""
    sizes, stream = [], SharedPrefixRollout.stream

    def spy(engine, head, batches, **sampling):
        def recorded():
            for prompts, numbers in batches:
                sizes.extend([len(prompts)] if prompts else [])
                yield prompts, numbers

        return stream(engine, head, recorded(), **sampling)

    monkeypatch.setattr(SharedPrefixRollout, 'stream', spy)
    return sizes


@pytest.fixture
def config(tiny_config):
    tiny_config.test_dataloader.batch_size = 2
    return tiny_config


def make_runner(config, name, resume=False, **changes):
    config = copy.deepcopy(config)
    config.default_hooks.response_cache = dict(type='ResponseCacheHook', resume=resume)
    config.merge_from_dict(changes)
    config.experiment_name += name
    return Runner.from_cfg(config)


def evaluate(*args, **kwargs):
    """The metrics of a test, and its rows."""
    runner = make_runner(*args, **kwargs)
    metrics = runner.test()
    return metrics, list(read_jsonl(str(Path(runner.log_dir, 'reasonseg.jsonl'))))


def interrupt(config):
    """The answers of a test that stopped after two of three batches of two, long ago."""
    runner = make_runner(config, 'interrupted', custom_hooks=[dict(type='PowerCutHook')])
    with pytest.raises(PowerCut):
        runner.test()
    folder = Path(config.work_dir, '20200101_000000')
    Path(runner.log_dir).rename(folder)
    return folder / 'answers.jsonl'


@pytest.fixture
def interrupted(config):
    return interrupt(config)


def test_a_resumed_test_ends_like_one_that_was_not_interrupted(config, interrupted, generated):
    content = interrupted.read_bytes()
    assert content.count(b'\n') == 1 + 4
    resumed = evaluate(config, 'resumed', resume=True)
    assert generated == [2]
    assert interrupted.read_bytes() == content
    straight = evaluate(config, 'straight', work_dir=config.work_dir + '_straight')
    assert generated == [2, 2, 2, 2]
    assert resumed == straight

    again = evaluate(config, 'again', resume=True, **{'test_dataloader.batch_size': 3})
    assert generated == [2, 2, 2, 2]  # all six are there now
    assert again[1] == straight[1]
    assert again[0] == pytest.approx(straight[0], rel=1e-5)


def test_a_batch_may_be_answered_in_part(config, interrupted, generated):
    _, rows = evaluate(config, 'resumed', resume=True, **{
        'test_dataloader.batch_size': 3, 'model.test_cfg.temperature': 0.0})
    assert generated == [2] and len(rows) == 6


def test_a_validation_does_not_use_the_cache(config, interrupted, generated):
    config.update(val_dataloader=config.test_dataloader, val_cfg=dict(type='ReasonSegValLoop'),
                  val_evaluator=dict(type='ReasonSegMetric'))
    config.default_hooks.checkpoint = None  # there is no training
    runner = make_runner(config, 'resumed', resume=True)
    expected = runner.val()
    assert generated == [2, 2, 2]
    assert runner.test()
    assert generated == [2, 2, 2] + [2]
    assert runner.val() == expected
    assert generated == [2, 2, 2] + [2] + [2, 2, 2]


def test_a_line_cut_off_is_answered_again(config, interrupted, generated, capfd):
    interrupted.write_bytes(interrupted.read_bytes()[:-20])
    config.log_level = 'INFO'
    _, rows = evaluate(config, 'resumed', resume=True)
    assert generated == [1, 2] and len(rows) == 6
    output = capfd.readouterr().out
    assert f'{interrupted} ends in the middle of a line' in output
    assert '3 answers were reused' in output


def test_without_resume_everything_is_answered(config, interrupted, generated):
    evaluate(config, 'fresh')
    assert generated == [2, 2, 2]
    assert len(find_answers(config.work_dir)) == 2


def test_answers_of_other_settings_are_named_and_left_alone(config, interrupted, generated):
    with pytest.raises(ValueError, match=r"differs in `test_cfg`: .*'temperature': 0\.0.*there, "
                                         r".*'temperature': 0\.7.*here; name the checkpoint"):
        evaluate(config, 'other', resume=True, **{'model.test_cfg.temperature': 0.7})
    assert not generated

    runner = make_runner(config, 'weights', resume=True)
    with torch.no_grad():
        next(runner.model.policy.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match=r'differs in `weights`: \w{64} there, \w{64} here'):
        runner.test()


def test_the_fitting_one_of_several_tests_is_gone_on_with(config, interrupted, generated):
    other = {'model.test_cfg.max_new_tokens': 60}
    evaluate(config, 'other', **other)
    generated.clear()
    evaluate(config, 'resumed', resume=True)
    assert generated == [2]


def test_answers_to_other_prompts_are_not_taken(config, interrupted, generated, capfd):
    evaluate(config, 'other', resume=True, **{'test_dataloader.dataset.split': 'train'})
    assert generated == [2, 2, 2, 2]
    assert 'No cached answer matches a prompt of the first batch' in capfd.readouterr().out


def test_nothing_to_resume(config, generated):
    with pytest.raises(ValueError, match='there is none; leave out `--resume`'):
        evaluate(config, 'none', resume=True)
    assert not generated


def test_one_of_several_answers_is_chosen_among_the_same(config, generated):
    config.model.test_cfg.update(SEVERAL, compare_greedy=True)
    interrupted = interrupt(config)
    rows = list(read_jsonl(str(interrupted)))[1:]
    assert [len(row['samples']) for row in rows] == [3] * 4
    assert all(row['response'] in [one['response'] for one in row['samples']] for row in rows)
    assert all(row['greedy']['tokens'] for row in rows)
    generated.clear()
    resumed = evaluate(config, 'resumed', resume=True)
    assert generated == [2]
    straight = evaluate(config, 'straight', work_dir=config.work_dir + '_straight')
    assert resumed == straight

    generated.clear()  # another selector may choose then
    other = evaluate(config, 'other', resume=True, **{'model.test_cfg.select': 'consensus'})
    assert not generated and len(other[1]) == 6


@pytest.mark.slow
@pytest.mark.parametrize('test_cfg', [{}, SEVERAL], ids=['one', 'several'])
def test_two_processes_go_on_where_one_stopped(config, tmp_path, test_cfg):
    """Five samples, so that one of two processes tests a padded one; one is answered before."""
    config.model.test_cfg.update(test_cfg)
    config.test_dataloader.dataset.indices = 5
    _, expected = evaluate(config, 'one', work_dir=config.work_dir + '_one')
    interrupted = interrupt(config)
    interrupted.write_bytes(b''.join(interrupted.read_bytes().splitlines(keepends=True)[:2]))
    config.dump(tmp_path / 'config.py')
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
               'tools/test.py', str(tmp_path / 'config.py'), '--launcher', 'pytorch',
               '--work-dir', config.work_dir, '--resume']
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    (rows, ) = Path(config.work_dir).glob('*/reasonseg.jsonl')
    assert list(read_jsonl(str(rows))) == expected
    new = [row['id'] for path in find_answers(config.work_dir) if path != interrupted
           for row in list(read_jsonl(str(path)))[1:]]
    before = [row['id'] for row in list(read_jsonl(str(interrupted)))[1:]]
    assert len(find_answers(config.work_dir)) == 3
    # Both processes may answer the padded sample; none answers what was answered before.
    assert sorted({*new, *before}) == [row['id'] for row in expected]
    assert before and not {*new} & {*before} and len(new) <= len({*new}) + 1


def test_digests_tell_weights_apart():
    module = torch.nn.BatchNorm1d(3).bfloat16()  # with a scalar in its state
    first = digest_weights(module)
    assert digest_weights(copy.deepcopy(module)) == first
    with torch.no_grad():
        module.weight[0] = 2
    assert digest_weights(module) != first


def test_validations_are_left_alone(config):
    """Before any test, and after one that was interrupted."""
    for part in ('dataloader', 'evaluator'):
        config[f'val_{part}'] = config[f'test_{part}']
    config.val_cfg, config.default_hooks.checkpoint = dict(type='ReasonSegValLoop'), None
    runner = make_runner(config, 'validated', custom_hooks=[dict(type='PowerCutHook')])
    runner.val()
    assert not find_answers(runner.work_dir)
    with pytest.raises(PowerCut):
        runner.test()
    path, = find_answers(runner.work_dir)
    content = path.read_bytes()
    runner.val()
    assert path.read_bytes() == content


def test_the_task_of_a_question_is_part_of_its_key():
    def key(**meta):
        sample = DetDataSample(metainfo=dict(question='a cup', sample_idx=3, **meta))
        image = torch.zeros(3, 4, 4, dtype=torch.uint8)
        return prompt_keys(dict(inputs=dict(model_image=[image]), data_samples=[sample]))[0]

    assert len({key(), key(task='a'), key(task='b')}) == 3


def test_the_templates_of_all_tasks_are_named(config):
    """A single one as before there were tasks, so that earlier answers stay available."""
    model = MODELS.build(config.model)
    assert describe_maker(model, False)['prompt_template'] == 'find "{question}"'
    model.policy.encoder.templates = dict(a='{question}?', b='{question}!')
    assert describe_maker(model, False)['prompt_template'] == dict(a='{question}?', b='{question}!')
