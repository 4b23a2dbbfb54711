# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The commands that users type."""
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mmdpad.utils import read_jsonl

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/dpad/tiny_shapes.py'


def run(*command):
    """In an interpreter of its own, in which nothing is imported yet."""
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def options(data, **more):
    return ['--cfg-options', 'train_dataloader.batch_size=2', 'train_cfg.max_iters=2',
            'train_cfg.val_interval=2',
            'model.train_cfg.group_size=2', 'default_hooks.checkpoint.interval=1',
            *(f'{split}_dataloader.dataset.data_root={data}' for split in
              ('train', 'val', 'test')), *(f'{k}={v}' for k, v in more.items())]


def options_here(data, **more):
    """Without workers: five seconds are spent on each that is left to the garbage collection."""
    return options(data, **{f'{split}_dataloader.{key}': value for split in
                            ('train', 'val', 'test') for key, value in
                            (('num_workers', 0), ('persistent_workers', False))}, **more)


def test_train_resume_and_test(shapes_data, tmp_path, run_here):
    work_dir = tmp_path / 'run'
    trained = run('tools/train.py', CONFIG, '--work-dir', work_dir, *options(shapes_data))
    logged = trained.stdout
    assert ' - INFO - ' in logged and '\033' not in logged  # no colors where no terminal is
    for warned_of_by_others in ('pkg_resources', 'FileClient', 'HardDiskBackend'):
        assert warned_of_by_others not in logged + trained.stderr
    assert (work_dir / 'iter_2.pth').is_file()
    assert list(work_dir.glob('best_reasonseg_giou_iter_*.pth'))
    assert list(work_dir.rglob('events.out.tfevents*'))

    (log, ) = work_dir.glob('*/rollouts.jsonl')
    shown = run('tools/analysis_tools/show_rollouts.py', log, '--iter', '1', '--top', '1').stdout
    assert shown.startswith('Iteration 1\n') and shown.count('<think>') >= 3
    paid = run_here('tools/analysis_tools/reward_by_length.py', log, '--stages', '1').stdout
    assert paid.splitlines()[0].split()[:4] == ['iterations', 'groups', 'words', 'total']
    page = tmp_path / 'page.html'
    run_here('tools/analysis_tools/show_rollouts.py', log, '--last', '--out', page)
    assert 'Iteration 2' in page.read_text() and page.read_text().count('<img ') == 6
    missing = run_here('tools/analysis_tools/show_rollouts.py', log, '--iter', '3')
    assert missing.returncode == 1 and missing.stderr.count('\n') == 1
    assert 'no iteration 3' in missing.stderr

    again = run_here('tools/train.py', CONFIG, '--work-dir', work_dir, *options_here(shapes_data))
    assert again.returncode == 1 and 'holds the checkpoints of an earlier run' in again.stderr
    run_here('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume',
             *options_here(shapes_data, **{'train_cfg.max_iters': 3}))
    assert (work_dir / 'iter_3.pth').is_file()

    ended = run_here('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume',
                     *options_here(shapes_data, **{'train_cfg.max_iters': 3}))
    assert ended.returncode == 0
    assert 'Nothing is left to train: the checkpoint is of iteration 3 of 3' in ended.stdout
    cut = (work_dir / 'iter_3.pth').read_bytes()
    (work_dir / 'iter_3.pth').write_bytes(cut[:len(cut) // 2])
    again = run_here('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume',
                     *options_here(shapes_data, **{'train_cfg.max_iters': 3}))
    assert f'WARNING: --resume: {work_dir}/iter_3.pth is damaged' in again.stderr
    assert 'resumed epoch: 0, iter: 2' in again.stdout
    assert len((work_dir / 'iter_3.pth').read_bytes()) > len(cut) // 2
    (best, ) = work_dir.glob('best_*.pth')
    refused = run_here('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume', best,
                       *options_here(shapes_data))
    assert refused.returncode == 1 and 'should hold the optimizer' in refused.stderr

    out = tmp_path / 'metrics.json'
    run_here('tools/test.py', CONFIG, work_dir / 'iter_3.pth', '--work-dir', work_dir, '--out', out,
             *options_here(shapes_data))
    written = json.loads(out.read_text())
    metrics, about = written['metrics'], written['results']['reasonseg']
    assert metrics['reasonseg/n'] == 6 and about['provenance']['checkpoint'] == 'iter_3.pth'
    assert about['protocol']['decoder'] == 'SAMDecoder(vit_shapes)'
    assert len(about['intervals']['giou']) == 2
    assert {'reasonseg/giou', 'reasonseg/ciou', 'reward/discriminative'} <= metrics.keys()
    (samples, ) = [path for path in work_dir.glob('*/reasonseg.jsonl')]
    assert (tmp_path / about['samples']).samefile(samples)
    assert len(samples.read_text().splitlines()) == 6

    report = 'tools/analysis_tools/report.py'
    assert run_here(report, work_dir).stdout.strip() == str(work_dir / 'report.html')
    page = (work_dir / 'report.html').read_text()
    for validation in ('<td>first</td><td>2</td>', '<td>last</td><td>3</td>'):
        assert validation in page, 'of both logs of the run'
    assert 'Of ' + samples.with_suffix('.json').relative_to(work_dir).as_posix() in page
    for shown in ('<b>checkpoint:</b> iter_3.pth', 'Iteration 1: best', 'Iteration 3: worst',
                  'GRPOTrainLoop', 'alt="Iteration 2"'):
        assert shown in page, shown
    again = run_here(report, work_dir, '--out', work_dir / 'report.html')
    assert again.stdout.strip() == str(work_dir / 'report_2.html'), 'nothing is overwritten'
    (first, ) = work_dir.glob('*/reasonseg_iter_2.json')
    run_here(report, work_dir, '--result', first, '--out', tmp_path / 'first.html')
    assert '<b>iter:</b> 2' in (tmp_path / 'first.html').read_text()

    out = tmp_path / 'again.json'
    again = run_here('tools/test.py', CONFIG, work_dir / 'iter_3.pth', '--work-dir', work_dir,
                     '--out', out, '--resume', *options_here(
                         shapes_data, **{'default_hooks.response_cache': None}))
    assert '6 answers were reused' in again.stdout
    assert json.loads(out.read_text())['metrics'] == metrics
    with pytest.raises(ValueError, match='differs in `weights`'):
        run_here('tools/test.py', CONFIG, work_dir / 'iter_2.pth', '--work-dir', work_dir,
                 '--resume', *options_here(shapes_data))


def test_estimate_cost(run_here):
    tool = 'tools/analysis_tools/estimate_cost.py'
    config = 'configs/dpad/qwen7b_reasonseg.py'
    text = run_here(tool, config, '--gpus', '8', '--gpu-memory', '80').stdout
    assert 'built-in shape of Qwen2.5-VL-7B' in text and '8 shards' in text
    report = json.loads(run_here(tool, config, '--json', '--response-tokens', '100',
                                 '--cfg-options', 'train_dataloader.batch_size=2').stdout)
    assert report['tokens']['responses'] == 2 * 8 * 100
    assert report['memory']['peak'] > 16 * report['parameters']
    assert report['variants'][0]['fits'] is None
    refused = run_here(tool, config, '--gpus', '0')
    assert refused.returncode == 2 and '--gpus should be positive, but got 0' in refused.stderr


@pytest.mark.slow
def test_estimate_difficulty_and_train_by_it(run_here, shapes_data, tmp_path):
    tool, out = 'tools/analysis_tools/estimate_difficulty.py', tmp_path / 'rates.jsonl'
    here = options_here(shapes_data, **{'train_dataloader.dataset.num_samples': 5})
    measured = run_here(tool, CONFIG, '--out', out, '--work-dir', tmp_path / 'rates',
                        '--term', 'thinking_format', *here)
    assert measured.stdout.rstrip().endswith(str(out))
    rates = list(read_jsonl(str(out)))
    assert [rate['responses'] for rate in rates] == [2] * 5
    assert {rate['passes'] / 2 for rate in rates} == {rate['pass_rate'] for rate in rates}
    refused = run_here(tool, CONFIG, '--out', out, '--work-dir', tmp_path / 'none', '--term', 'no',
                       *here)
    assert refused.returncode == 1 and '`--term` should be a reward term of' in refused.stderr
    assert list(tmp_path.glob('*.jsonl')) == [out]
    kept = [rate for rate in rates if rate['pass_rate'] >= 0.5]
    trained = run_here('tools/train.py', CONFIG, '--work-dir', tmp_path / 'run', *here, *(
        f'train_dataloader.dataset.difficulty.{name}={value}'
        for name, value in dict(file=out, min=0.5).items()), 'val_cfg=None',
        'val_dataloader=None', 'val_evaluator=None')
    assert f'{len(kept)} of 5 questions' in trained.stdout


def test_check_discriminator(run_here, shapes_data, tmp_path):
    tool, here = 'tools/analysis_tools/check_discriminator.py', options_here(shapes_data)
    out = tmp_path / 'out.json'
    result = run_here(tool, CONFIG, '--out', out, *here)
    assert '8 of 8 items' in result.stdout and 'from the data set itself' in result.stdout
    assert 'This discriminator carries the reward' in result.stdout
    report = json.loads(out.read_text())
    assert report['verdict'] == 'carries' and report['source'] == 'data set'
    assert report['all']['wins']['true']['value'] == 1 and report['all']['rank']['n'] == 8
    assert report['options']['contrast'] == 'image'

    captions = tmp_path / 'captions.jsonl'
    captions.write_text(''.join(json.dumps(dict(id=f'val_0000{i}', caption=caption)) + '\n'
                                for i, caption in enumerate(['a red star', 'red ' * 500])))
    result = run_here(tool, CONFIG, '--loader', 'val_dataloader', '--captions', captions, *here)
    assert '2 of 2 items that have a caption (of 4)' in result.stdout
    assert 'unusable true captions                    0.500' in result.stdout
    result = run_here(tool, CONFIG, '--loader', 'val_dataloader', '--limit', 3, *here)
    assert '3 of 4 items' in result.stdout and 'the QUESTIONS of the data set' in result.stdout


@pytest.mark.parametrize('arguments, message', [
    (['--captions', 'none.jsonl'], "captions 'none.jsonl' does not exist"),
    (['--captions', 'README.md'], 'README.md, line 1 should be a JSON object'),
    (['--limit', '0'], "--limit: invalid positive value: '0'"),
    (['--cfg-options', 'train_dataloader.dataset.data_root=no/such/data'], 'no/such/data'),
    (['--cfg-options', 'custom_hooks=[]'], 'should have a DiscriminativeRewardHook'),
    (['--cfg-options', 'train_dataloader=None'], 'has no `train_dataloader`'),
    (['--cfg-options', 'custom_hooks.DiscriminativeRewardHook.regoin=target'], "'regoin'"),
    (['--cfg-options',
      'custom_hooks.DiscriminativeRewardHook.discriminator.model_name=local-dir:no/such/clip'],
     'no/such/clip'),
])
def test_check_discriminator_names_what_is_wrong(run_here, shapes_data, arguments, message):
    option = f'train_dataloader.dataset.data_root={shapes_data}'
    rest = [] if '=None' in arguments[-1] or 'data_root' in arguments[-1] else [option]
    if '--cfg-options' not in arguments:
        rest = ['--cfg-options', *rest]
    result = run_here('tools/analysis_tools/check_discriminator.py', CONFIG, *arguments, *rest)
    assert result.returncode and message in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('command, message', [
    (['tools/train.py', 'configs/none.py'], "config 'configs/none.py' does not exist"),
    (['tools/train.py', CONFIG, '--resume', '--work-dir', 'no/such/run'], 'no checkpoint in'),
    (['tools/train.py', CONFIG, '--work-dir', 'no/such/run', '--cfg-options',
      'load_from=none.pth'],
     "checkpoint 'none.pth' does not exist"),
    (['tools/test.py', CONFIG, 'none.pth'], "checkpoint 'none.pth' does not exist"),
    (['tools/test.py', CONFIG, '--out', 'docs/benchmarks/4_rollout.json'],
     'already exists'),
    (['tools/test.py', CONFIG, '--resume', '--work-dir', 'no/such/run'], 'no answers of an'),
    (['tools/analysis_tools/estimate_cost.py', 'none.py'], "config 'none.py' does not exist"),
    (['tools/analysis_tools/estimate_cost.py', 'configs/dpad/qwen7b_reasonseg.py',
      '--cfg-options', 'model.policy.pretrained=none'],
     "whose shapes are built in, but got 'none'"),
    (['tools/analysis_tools/report.py', 'no/such/run'], "'no/such/run' should be the work dir of"),
    (['tools/analysis_tools/report.py', 'configs'], "'configs' should be the work dir of a run"),
    (['tools/analysis_tools/report.py', 'configs', '--result', 'no.json'],
     "result 'no.json' does not exist"),
    (['tools/analysis_tools/show_rollouts.py', 'none.jsonl'], "log 'none.jsonl' does not exist"),
    (['tools/analysis_tools/reward_by_length.py', 'README.md'], 'should hold one JSON object per'),
    (['tools/analysis_tools/show_rollouts.py', 'README.md'], 'should hold one JSON object per'),
])
def test_what_is_not_there_is_named_at_once(run_here, command, message):
    result = run_here(*command)
    assert result.returncode == 1
    assert message in result.stderr and 'Traceback' not in result.stderr


@pytest.mark.parametrize('override, message', [
    ('model.decoder.checkpoint=no/such/sam.pth', 'no/such/sam.pth'),
    ('custom_hooks.DiscriminativeRewardHook.discriminator.model_name=local-dir:no/such/clip',
     'no/such/clip'),
])
def test_bad_paths_stop_a_run_before_training(run_here, capsys, shapes_data, tmp_path, override,
                                              message):
    overrides = dict([override.split('=')])
    with pytest.raises(Exception) as error:
        run_here('tools/train.py', CONFIG, '--work-dir', tmp_path,
                 *options_here(shapes_data, **overrides))
    assert message in str(error.value).splitlines()[-1]
    assert 'Iter(train)' not in ''.join(capsys.readouterr())


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_a_policy_that_is_not_there_ends_a_run_in_a_line(run_here, shapes_data, tmp_path, tool):
    result = run_here(f'tools/{tool}.py', CONFIG, '--work-dir', tmp_path, *options_here(
        shapes_data, **{'model.policy.pretrained': './no/such/policy'}))
    assert result.returncode == 1 and 'Iter(train)' not in result.stdout
    assert "but 'no/such/policy' does not exist" in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('tool, loader', [('train', 'train'), ('test', 'test')])
def test_data_that_is_not_there_ends_a_run_with_its_list(run_here, shapes_data, tmp_path, tool,
                                                         loader):
    result = run_here(f'tools/{tool}.py', CONFIG, '--work-dir', tmp_path, *options_here(
        shapes_data, **{f'{loader}_dataloader.dataset.data_root': 'no/such/data'}))
    assert result.returncode == 1
    assert '1 problem(s) in the data set no/such/data' in result.stderr
    assert 'Traceback' not in result.stderr


def test_the_demo_draws_gains_and_losses_alike():
    typical_pairs = runpy.run_path(str(ROOT / 'tools/demo.py'))['typical_pairs']
    changes = [-0.4, 0.0, 0.9, 0.1, -0.1, 0.3, 0.2, 0.0]
    pairs = [(dict(iou=0.5), dict(iou=0.5 + change)) for change in changes]
    drawn = [round(end['iou'] - start['iou'], 1) for start, end in typical_pairs(pairs, 4)]
    # Of 0.9, 0.3 | 0.2, 0.1 | 0, 0 | -0.1, -0.4.
    assert drawn == [0.3, 0.1, 0.0, -0.4]
