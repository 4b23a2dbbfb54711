# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The launcher of the study: what is done is kept, what failed is named, the rest continues."""
import importlib.util
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from study_commands import write_outputs

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / 'tools/analysis_tools/run_study.py'


@pytest.fixture
def run_study(monkeypatch, tmp_path):
    """The module; the project's commands are written down in ``calls`` in place of being run."""
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location('run_study', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__('sys').modules, 'run_study', module)
    spec.loader.exec_module(module)
    module.calls, module.broken = [], set()

    def call(run, *command):
        module.calls.append((run.name, command))
        if (run.name, Path(command[0]).stem) in module.broken:
            raise RuntimeError('it broke')
        write_outputs(command, 'iter_150.pth')

    monkeypatch.setattr(module.Run, '_call', call)
    module.study = tmp_path / 'study'
    return module


def make_runs(module, *names, seeds=1):
    arms = [module.Arm.read(module.CONFIGS / f'{name}.py') for name in names]
    return [module.Run(arm, seed, module.study) for arm in arms for seed in range(seeds)]


def test_a_run_trains_and_answers_twice(run_study):
    run = make_runs(run_study, 'discriminative', seeds=2)[1]
    run()
    (_, train), (_, greedy), (_, sampled) = run_study.calls
    assert train[:2] == ('tools/train.py', str(ROOT / 'configs/study/discriminative.py'))
    assert 'randomness.seed=1' in train and '--resume' not in train
    # The checkpoint is found where it is, wherever it was when it was written.
    assert greedy[:3] == ('tools/test.py', str(ROOT / 'configs/study/discriminative.py'),
                          str(run.folder / 'train/iter_150.pth'))
    assert 'model.test_cfg.temperature=0.0' in greedy
    assert {'model.test_cfg.temperature=1.0', 'model.test_cfg.seed=1'} <= {*sampled}
    # In quotes, for a folder with a comma.
    assert f"test_evaluator.2.out_file='{run.folder / 'sampled.specific.jsonl'}'" in sampled
    assert run.is_done


def test_the_start_policy_is_not_trained(run_study):
    make_runs(run_study, 'start')[0]()
    assert [command[0] for _, command in run_study.calls] == ['tools/test.py'] * 2
    assert all('.pth' not in word for _, command in run_study.calls for word in command)


def test_what_failed_is_named_and_the_rest_continues(run_study, capsys):
    run_study.broken.add(('geometric, seed 1', 'test'))
    runs = make_runs(run_study, 'geometric', seeds=3)
    assert run_study.work_off(runs, 3, 2) == ['geometric, seed 1: it broke']
    assert [run.is_done for run in runs] == [True, False, True]
    assert 'FAILED: it broke' in capsys.readouterr().out
    run_study.broken.clear()
    run_study.calls.clear()
    assert run_study.work_off([run for run in runs if not run.is_done], 3, 2) == []
    assert '[3/3] geometric, seed 1' in capsys.readouterr().out
    assert [command[0] for _, command in run_study.calls] == ['tools/test.py'] * 2  # not trained


def test_an_interrupted_training_is_resumed_and_half_an_evaluation_begun_anew(run_study):
    run, = make_runs(run_study, 'caption')
    (run.folder / 'train').mkdir(parents=True)
    (run.folder / 'train/iter_50.pth').touch()
    (run.folder / 'greedy.samples.jsonl').write_text('half')
    run_study.broken.add((run.name, 'train'))
    with pytest.raises(RuntimeError, match='it broke'):
        run()
    assert '--resume' in run_study.calls[0][1]
    (run.folder / 'trained').write_text('iter_150.pth')
    run()
    assert not (run.folder / 'greedy.samples.jsonl').exists()  # written by test.py alone


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/study').glob('*.py')),
                         ids=lambda path: path.stem)
def test_arms_say_what_they_are_compared_with(run_study, path, tmp_path):
    arm = run_study.Arm.read(path.relative_to(ROOT))
    run_study.write_about(arm, tmp_path)
    about = json.loads((tmp_path / arm.name / 'arm.json').read_text())
    assert about['compare_with'] or not arm.trained
    own = Config.fromfile(str(path))
    for reference in about['compare_with']:
        other = Config.fromfile(str(ROOT / f'configs/study/{reference}.py'))
        # One start policy, one data set and as many steps on both sides.
        assert other.model.policy.pretrained == own.model.policy.pretrained
        assert other.train_cfg.max_iters == own.train_cfg.max_iters
        # The order of questions may differ, and which are left out as too easy or too hard.
        loaders = [arm.train_dataloader.to_dict() for arm in (own, other)]
        for loader in loaders:
            loader.pop('sampler')
            loader['dataset'].pop('difficulty', None)
        assert loaders[0] == loaders[1]
        assert other.test_dataloader == own.test_dataloader
        assert other.arm.seeds >= own.arm.seeds


def test_pass_rates_are_estimated_once_for_arms_that_read_them(run_study, monkeypatch, tmp_path):
    commands = []

    def run(command, **options):
        commands.append(Path(command[1]).name)
        if '--out' in command:
            Path(command[command.index('--out') + 1]).write_text('{}')

    monkeypatch.setattr(run_study.subprocess, 'run', run)
    monkeypatch.setattr(run_study, 'PASS_RATES', tmp_path / 'pass_rates.jsonl')
    readers = [path.stem for path in run_study.CONFIGS.glob('*.py')
               if 'pass_rates.jsonl' in path.read_text()]
    for arms, times in ((['gdpo'], 0), (readers, 1), (readers, 0)):
        commands.clear()
        monkeypatch.setattr('sys.argv', ['run_study.py', '--work-dir', str(tmp_path), '--seeds',
                                         '1', '--jobs', '1', '--arms', *arms])
        run_study.main()
        assert commands.count('estimate_difficulty.py') == times
        assert commands[-1] == 'study_report.py'
    assert len(readers) == 2


def test_a_missing_start_policy_is_reported_before_any_work(run_study, monkeypatch, tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text('_base_ = "mmdpad::study/caption.py"\n'
                      'model = dict(policy=dict(pretrained="{{ fileDirname }}/weights/none"))\n')
    monkeypatch.setattr(run_study, 'CONFIGS', tmp_path)
    monkeypatch.setattr(run_study, 'make_data', None)
    monkeypatch.setattr('sys.argv', ['run_study.py'])
    with pytest.raises(SystemExit, match='policy of mine.py should be in .*weights/none, but does '
                                         'not exist; .* run `make study` in a checkout'):
        run_study.main()


@pytest.mark.parametrize('arguments', [['--jobs', '0'], ['--seeds', '-1'], ['--arms', 'nothing']])
def test_wrong_arguments_are_refused(run_study, monkeypatch, arguments):
    monkeypatch.setattr('sys.argv', ['run_study.py', *arguments])
    with pytest.raises(SystemExit, match='2'):
        run_study.main()
    assert not run_study.calls
