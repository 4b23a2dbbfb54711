# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math

import numpy as np
import pytest

from mmdpad.analysis.pages.study_page import all_tables
from mmdpad.analysis.study import (
    MEASURES,
    analyze_study,
    first_answers,
    paired_over_seeds,
    read_answers,
    read_arm,
)
from mmdpad.utils import write_jsonl


def side(giou, tokens):
    """One run whose samples have these IoUs in percent and reasoning tokens, (K, N) twice."""
    above = np.ones((len(MEASURES), len(giou)))
    names = list(MEASURES)
    above[names.index('giou')], above[names.index('reasoning_tokens')] = giou, tokens
    return above, np.ones_like(above)


def test_paired_differences_by_hand():
    # Each scene gains 1 point in seed one and 3 in seed two: whatever scenes are drawn, the
    # difference is 1, 2 or 3 by the seeds alone, so the two-level interval is [1, 3].
    before = [side([10, 50], [10, 10]), side([20, 60], [20, 20])]
    after = [side([11, 51], [5, 5]), side([23, 63], [5, 5])]
    found = paired_over_seeds(before, after)
    giou, tokens, percent = (found[name] for name in ('giou', 'reasoning_tokens',
                                                      'reasoning_tokens_percent'))
    # t(0.975, 1) = 12.7062; half = 12.7062 * sqrt(2) / sqrt(2).
    assert giou == pytest.approx(dict(mean=2, low=2 - 12.7062, high=2 + 12.7062, n=2, scenes_low=1,
                                      scenes_high=3), rel=1e-5)
    assert tokens['mean'] == -10 and (tokens['scenes_low'], tokens['scenes_high']) == (-15, -5)
    assert percent['mean'] == (-50 - 75) / 2
    assert (percent['scenes_low'], percent['scenes_high']) == (-75, -50)
    assert 'scenes_low' not in found['margin']
    assert found == paired_over_seeds(before, after), 'the same draws each time'


def test_scenes_widen_the_interval_and_are_drawn_for_both_arms_alike():
    scenes = np.arange(40.0)
    gains = np.where(scenes % 2, 10.0, 0.0)  # half of the scenes gain, alike in all seeds
    before = [side(scenes, np.ones(40)) for _ in range(5)]
    found = paired_over_seeds(before, [side(scenes + gains, np.ones(40)) for _ in range(5)])['giou']
    assert found['low'] == found['high'] == 5, 'seeds agree'
    # The gain's standard error over scenes is 5 / sqrt(40) = 0.79, and 1.96 * 0.79 = 1.55; if
    # scenes were drawn again for each seed it would be 1.55 / sqrt(5).
    assert found['scenes_low'] == pytest.approx(5 - 1.55, abs=0.3)
    assert found['scenes_high'] == pytest.approx(5 + 1.55, abs=0.3)


def test_one_pair_or_none_has_no_interval():
    one = paired_over_seeds([side([1, 2], [3, 3])], [side([2, 3], [3, 3])])
    assert one['giou']['mean'] == 1 and math.isnan(one['giou']['low'])
    assert 'scenes_low' not in one['giou']
    assert paired_over_seeds([], [])['giou']['n'] == 0


def test_reasoning_of_no_tokens_has_no_relative_change():
    found = paired_over_seeds([side([1, 1], [0, 0])] * 2, [side([1, 1], [5, 5])] * 2)
    assert found['reasoning_tokens']['mean'] == 5
    assert found['reasoning_tokens_percent']['n'] == 0
    assert math.isnan(found['reasoning_tokens_percent']['scenes_low'])


def test_a_study_by_hand(study_folder):
    study_folder('geometric', seeds=(1, 2, 3))
    study_folder('start', seeds=(1, ), train=False, about=dict(group='other', trained=False))
    folder = study_folder('discriminative', seeds=(2, 3), tokens=lambda seed, scene: 5 + scene,
                          about=dict(seeds=3, compare_with=['geometric']))
    study = analyze_study(folder)
    start, reference, arm = study['arms']
    assert [one['name'] for one in study['arms']] == ['start', 'geometric', 'discriminative']
    assert study['sets'] == ['all', 'many', 'look_alikes'] and study['samples']['all'] == 8
    numbers = reference['numbers']['sampled']['all']
    assert numbers['giou']['values'] == {1: 10, 2: 20, 3: 30} and numbers['giou']['mean'] == 20
    assert numbers['ciou']['mean'] == 20 and numbers['specificity']['mean'] == 50
    assert numbers['rank']['mean'] == 1.5 and numbers['margin']['mean'] == 0.25
    assert numbers['failures']['mean'] == 0 and numbers['ranked']['mean'] == 100
    assert start['numbers']['greedy']['many']['giou']['mean'] == 10
    assert start['missing'] == [] and start['logs'] == {1: []}
    assert arm['missing'] == ['discriminative: 1 of 3 seeds have no folder']
    assert arm['logs'][2] == ['discriminative/seed_2/train/1/vis_data/scalars.json']
    (difference, ) = study['differences']
    assert difference['seeds'] == dict(sampled=[2, 3], greedy=[2, 3])
    found = difference['numbers']['sampled']['all']
    assert found['giou']['mean'] == 0 and found['giou']['n'] == 2
    assert found['reasoning_tokens']['mean'] == -3.5
    assert found['reasoning_tokens_percent']['mean'] == -35
    assert study['notes'] == []


def test_runs_that_lack_files_are_left_out_and_named(study_folder):
    folder = study_folder('geometric', seeds=(1, 2, 3))
    (folder / 'geometric/seed_1/greedy.rewards.jsonl').unlink()
    (folder / 'geometric/seed_2/sampled.samples.jsonl').write_text('')
    (folder / 'geometric/seed_3/train/1/vis_data/scalars.json').unlink()
    arm = read_arm(folder / 'geometric')
    assert {mode: list(runs) for mode, runs in arm.answers.items()} == dict(sampled=[1], greedy=[2])
    assert arm.missing == [
        'geometric/seed_1, greedy: no greedy.rewards.jsonl',
        'geometric/seed_2, sampled: no sampled.samples.jsonl',
        'geometric/seed_3, sampled: no train/TIME/vis_data/scalars.json',
        'geometric/seed_3, greedy: no train/TIME/vis_data/scalars.json']


def test_arms_that_share_no_seed_are_named(study_folder):
    study_folder('geometric', seeds=(1, ))
    study_folder('discriminative', seeds=(2, ), about=dict(compare_with=['geometric']))
    folder = study_folder('control', seeds=(2, ), about=dict(compare_with=['nothing']))
    study = analyze_study(folder)
    assert study['differences'] == [] and len(study['notes']) == 2
    assert first_answers(folder, study, ('geometric', 'discriminative')) == []


def test_null_and_nan_say_nothing_of_rank_and_margin(study_folder):
    def without_caption(kind, row):
        if kind == 'specific' and row['image'].endswith('0.jpg'):
            row['signal_s_rank'] = None
        if kind == 'rewards':
            row['signal_s_margin'] = None
    folder = study_folder('geometric', seeds=(1, ), change=without_caption)
    path = folder / 'geometric/seed_1/sampled.rewards.jsonl'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0].replace('null', 'NaN'), *lines[1:]]) + '\n')
    numbers = analyze_study(folder)['arms'][0]['numbers']['sampled']['all']
    assert numbers['rank']['mean'] == pytest.approx((2 + 1 + 2) / 3)
    assert numbers['ranked']['mean'] == 75 and numbers['specificity']['mean'] == 50
    assert math.isnan(numbers['margin']['mean']) and numbers['margin']['n'] == 0


def test_without_captions_nothing_is_said_of_how_specific_they_are(study_folder):
    def silent(kind, row):
        if kind == 'specific':
            row.update(specific=False, signal_s_rank=None)
    study_folder('geometric', change=silent)
    study = analyze_study(study_folder('caption', about=dict(compare_with=['geometric'])))
    without, captions = (arm['numbers']['sampled']['all'] for arm in study['arms'])
    assert math.isnan(without['specificity']['mean']) and without['ranked']['mean'] == 0
    assert captions['specificity']['mean'] == 50
    (difference, ) = study['differences']
    assert difference['numbers']['sampled']['all']['specificity']['n'] == 0


def test_other_scenes_are_refused(study_folder):
    study_folder('geometric')
    folder = study_folder('discriminative', scenes=5)
    with pytest.raises(ValueError, match=r'same scenes, but geometric/seed_1 \(sampled\) lacks 2 '
                                         r'\(.look_alikes/test/test_00004.jpg. .*discriminative/'):
        analyze_study(folder)
    path = folder / 'geometric/seed_1/greedy.specific.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r'greedy.specific.jsonl lacks 1 .*test_00000'):
        read_answers(path.parent, 'greedy')


def test_the_order_of_lines_does_not_matter(study_folder):
    folder = study_folder('geometric', tokens=lambda seed, scene: scene)
    before = read_answers(folder / 'geometric/seed_1', 'greedy')
    path = folder / 'geometric/seed_1/greedy.samples.jsonl'
    path.write_text(''.join(reversed(path.read_text().splitlines(keepends=True))))
    after = read_answers(folder / 'geometric/seed_1', 'greedy')
    assert before.keys == after.keys and (before.above == after.above).all()


def test_a_sample_that_cannot_count_is_refused(study_folder):
    folder = study_folder('geometric', change=lambda kind, row: row.pop('specific', None))
    with pytest.raises(ValueError, match='should have specific in each line, but line 1 lacks it'):
        analyze_study(folder)
    folder = study_folder('other', image='{number}.jpg')
    with pytest.raises(ValueError, match="name images as .../SET/SPLIT/FILE, but got '0.jpg'"):
        read_arm(folder / 'other')
    folder = study_folder('third')
    path = folder / 'third/seed_1/greedy.samples.jsonl'
    path.write_text(path.read_text().replace('"iou": 0.1', '"iou": NaN', 1))
    with pytest.raises(ValueError, match='should hold finite numbers, but giou'):
        read_arm(folder / 'third')


@pytest.mark.parametrize('about, wrong', [
    (dict(group='best'), "group is 'best'"), (dict(seeds=0), 'seeds is 0'),
    (dict(compare_with=3), 'compare_with is 3'), (dict(title=None), 'title is None')])
def test_an_arm_says_what_it_is(study_folder, about, wrong):
    with pytest.raises(ValueError, match=f'but {wrong}'):
        analyze_study(study_folder('geometric', about=about))


def test_a_folder_without_arms_or_runs(study_folder, tmp_path):
    with pytest.raises(ValueError, match='should be the folder of a study, with ARM/arm.json'):
        analyze_study(tmp_path)
    folder = study_folder('geometric', train=False)
    with pytest.raises(ValueError, match='at least one complete run, but: geometric/seed_1'):
        analyze_study(folder)


def test_first_answers_go_by_the_order_of_the_file(study_folder):
    study_folder('geometric', seeds=(1, 2))
    folder = study_folder('discriminative', seeds=(2, 3))
    path = folder / 'geometric/seed_2/sampled.samples.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows.reverse()
    path.write_text('\n'.join(map(json.dumps, rows)))
    pairs = first_answers(folder, analyze_study(folder), ('geometric', 'discriminative'), scenes=2)
    assert [a['image'] for a, _ in pairs] == [
        f'data/{name}/test/test_0000{number}.jpg' for name in ('look_alikes', 'many')
        for number in (3, 2)]
    assert all(a['image'] == b['image'] for a, b in pairs)
    assert {a['think'] for pair in pairs for a in pair} == {'think 2'}


def test_the_tool(study_folder, run_tool, tmp_path):
    study_folder('geometric')
    folder = study_folder('discriminative', tokens=lambda seed, scene: 5,
                          about=dict(compare_with=['geometric'], title='<b>DPAD</b>'))
    page, text, short, numbers = (tmp_path / name for name in ('p.html', 'study.md', 'short.md',
                                                               'n.json'))
    text.write_text('# Study\n\n<!-- study -->\nearlier\n<!-- /study -->\nend\n')
    arguments = ('study_report', folder, '--html', page, '--markdown', text, '--summary', short,
                 '--json', numbers)
    printed = run_tool(*arguments)
    assert 'Holds: sampled answers, reasoning length of discriminative compared with geometric: ' \
           'lower, -50.0 % [-50.0, -50.0] over 2 seeds' in printed
    assert text.read_text().startswith('# Study\n\n<!-- study -->\n\n- **')
    assert 'earlier' not in text.read_text() and text.read_text().endswith('<!-- /study -->\nend\n')
    assert len(json.loads(numbers.read_text())['arms']) == 2
    assert '&lt;b&gt;DPAD' in page.read_text() and str(tmp_path) not in page.read_text()
    assert short.read_text().startswith('<!-- study -->\n\n### Main and control arms, sampled')
    before = text.read_text(), short.read_text()
    run_tool(*arguments)
    assert (text.read_text(), short.read_text()) == before
    assert not (tmp_path / 'study_2.md').exists()
    with pytest.raises(SystemExit, match='should be the folder of a study'):
        run_tool('study_report', tmp_path / 'none')
    printed = run_tool('study_report', folder, '--compare', 'geometric', 'discriminative')
    assert ('geometric minus discriminative, sampled answers: cIoU +0.0 points [+0.0, +0.0] over 2 '
            'seeds') in printed and 'reasoning length +100.0 %' in printed
    with pytest.raises(SystemExit, match="two of .*'geometric'.*, but got 'geometric' and 'x'"):
        run_tool('study_report', folder, '--compare', 'geometric', 'x')


def test_groups_without_signal_are_averaged_over_a_training(study_folder):
    study_folder('geometric', seeds=(1, 2))
    study_folder('caption')
    folder = study_folder('discriminative', seeds=(1, 2, 3), about=dict(
        compare_with=['geometric', 'caption']))
    for arm, shares in dict(geometric={1: (0.5, 0.7), 2: (0.2, 0.2)},
                            discriminative={1: (0.1, 0.3), 2: (0.0, 0.2), 3: (0.4, )}).items():
        for seed, own in shares.items():
            path = folder / f'{arm}/seed_{seed}/train/1/vis_data/scalars.json'
            path.unlink()
            write_jsonl(str(path), [dict(iter=step, step=step, frac_reward_zero_std=share)
                                    for step, share in enumerate(own, start=1)])
    (folder / 'discriminative/seed_3/sampled.rewards.jsonl').unlink()
    (folder / 'discriminative/seed_3/greedy.rewards.jsonl').unlink()
    study = analyze_study(folder)
    found = {arm['name']: arm['no_signal'] for arm in study['arms']}
    assert found['geometric']['values'] == pytest.approx({1: 60, 2: 20})
    assert found['discriminative']['values'] == pytest.approx({1: 20, 2: 10}), 'complete runs only'
    assert found['discriminative']['mean'] == pytest.approx(15)
    assert found['caption']['n'] == 0, 'its logs do not have it'
    change = {one['reference']: one['no_signal'] for one in study['differences']}
    assert change['geometric']['mean'] == pytest.approx((-40 - 10) / 2)
    assert change['caption']['n'] == 0
    (table, ) = [one for one in all_tables(study) if one.title.startswith('Groups without')]
    assert [row[:2] for row in table.rows] == [['geometric', '2'], ['discriminative', '2']]
    assert table.rows[0][3] == '-' and table.rows[1][3].startswith('-25.0 [')
    assert table.rows[1][3].endswith('(to geometric)')
