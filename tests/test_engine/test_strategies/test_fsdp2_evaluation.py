# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluations with weights in parts over processes: the answers of one process."""
import subprocess
import sys

import pytest
import torch
from launching import FSDP2, ROOT, environment, evaluate, launch

from mmdpad.engine.strategies import merge_shards
from mmdpad.utils import read_jsonl


@pytest.mark.slow
def test_evaluates_parts_by_uneven_processes(make_config, tmp_path):
    """6 samples on 4 processes that are not evened out, so one or two each."""
    config = make_config('parts', processes=2, iterations=1, strategy=FSDP2)
    launch(config, 2)
    config.test_dataloader.batch_size = 1
    config.test_dataloader.sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
    config.dump(tmp_path / 'test.py')
    folder = tmp_path / 'parts/iter_1.pth'
    result = subprocess.run(
        ['tools/dist_test.sh', str(tmp_path / 'test.py'), str(folder), '4', '--work-dir',
         str(tmp_path / 'test'), '--out', str(tmp_path / 'out.json')], cwd=ROOT,
        env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]
    torch.save(merge_shards(folder), tmp_path / 'merged.pth')
    single = subprocess.run(
        [sys.executable, 'tools/test.py', str(tmp_path / 'test.py'), str(tmp_path / 'merged.pth'),
         '--work-dir', str(tmp_path / 'single'), '--cfg-options', 'strategy=None'],
        cwd=ROOT, capture_output=True, text=True, env=environment())
    assert single.returncode == 0, single.stderr[-5000:]
    answers = [sorted(line for path in (tmp_path / name).glob('*/answers*.jsonl')
                      for line in path.read_text().splitlines()) for name in ('test', 'single')]
    assert len(answers[0]) == 6 + 4  # each file opens with who answers
    assert set(answers[0]) == set(answers[1])


@pytest.mark.slow
def test_evaluates_weights_of_a_type_that_cannot_be_trained(make_config):
    evaluate(make_config('parts', strategy=FSDP2, **{'model.policy.dtype': 'bfloat16'}), 1)


@pytest.mark.slow
def test_scores_of_boxes_by_uneven_processes(tiny_task_config, tmp_path):
    """The policy's pass over answers, on 5 samples by two processes: those of one process. Where
    one process has an answer with boxes, the other may have none."""
    config = tiny_task_config('ovd')
    config.merge_from_dict({'model.policy.dtype': 'float64',
                            'model.box_scorer': dict(_delete_=True, type='LikelihoodScorer')})
    config.test_dataloader.update(
        batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False))
    config.test_dataloader.dataset.num_samples = 5
    found = []
    for name, processes, strategy in (('one', 1, None), ('parts', 2, FSDP2)):
        config.work_dir, config.strategy = str(tmp_path / name), strategy
        config.test_evaluator = dict(type='DetectionMetric', out_file=f'{config.work_dir}.jsonl')
        evaluate(config, processes)
        rows = list(read_jsonl(f'{config.work_dir}.jsonl'))
        found.append([value for row in rows for values in (
            *row['boxes'], row['scores'], *row['features'].values()) for value in values])
    assert len(found[0]) > 40 and found[1] == pytest.approx(found[0], rel=1e-9)


@pytest.mark.slow
def test_answers_chosen_by_uneven_processes(make_config, tmp_path):
    """Of 3 answers to each of 5 questions, by the policy's pass over them: those that one process
    chooses, with the same values."""
    found = []
    for name, processes, strategy in (('one', 1, None), ('parts', 2, FSDP2)):
        config = make_config(name, processes=processes, strategy=strategy, **{
            'model.policy.dtype': 'float64',
            'model.test_cfg': dict(num_samples=3, temperature=1.0, compare_greedy=True,
                                   max_new_tokens=80, select='likelihood')})
        config.test_dataloader.update(
            batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False))
        config.test_dataloader.dataset.indices = 5
        config.test_evaluator = dict(type='SelectionMetric', ignore_regions='target',
                                     out_file=f'{config.work_dir}.jsonl')
        evaluate(config, processes)
        found.append(list(read_jsonl(f'{config.work_dir}.jsonl')))
    assert len(found[0]) == len(found[1]) == 5
    chosen = [[(row['chosen'], row['response'], [one['response'] for one in row['candidates']])
               for row in rows] for rows in found]
    assert chosen[1] == chosen[0] and len({best for best, *_ in chosen[0]}) > 1
    values = [[one['values']['likelihood'] for row in rows for one in row['candidates']
               if one['usable']] for rows in found]
    assert len(values[0]) > 5 and values[1] == pytest.approx(values[0], rel=1e-9)
