# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from mmdpad.utils import answer_pictures, raised_alarms, rollout_logs, training_logs


def test_files_of_a_run_are_found_in_the_order_of_time(tmp_path):
    for start, content in (('2', 'b'), ('1', 'a'), ('3', '')):
        folder = tmp_path / start / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(content)
        (tmp_path / start / 'rollouts.jsonl').write_text('')
    assert [path.read_text() for path in training_logs(tmp_path)] == ['a', 'b'], 'no empty one'
    assert [path.parent.name for path in rollout_logs(tmp_path)] == ['1', '2', '3']
    assert training_logs(tmp_path / 'none') == rollout_logs(tmp_path / 'none') == []


def test_an_alarm_that_is_raised_again_counts_once(tmp_path):
    line = '2026/11/26 10:56:47 - mmengine - WARNING - Alarm {}\n'
    for start, alarms in (('1', ['b (x): 1', 'a (y): 2']), ('2', ['b (x): 1', 'c (z): 3'])):
        (tmp_path / start).mkdir()
        (tmp_path / start / f'{start}.log').write_text(
            'INFO - Alarm none\n' + ''.join(map(line.format, alarms)))
    assert raised_alarms(tmp_path) == ['b (x): 1', 'a (y): 2', 'c (z): 3']


def test_pictures_of_validations_by_sample_and_iteration(tmp_path):
    for start, names in (('1', ['val_answer_0010_9', 'val_answer_0010_20', 'test_answer_0010_0']),
                         ('2', ['val_answer_0010_20', 'val_answer_0002_20', 'other_1_2'])):
        folder = tmp_path / start / 'vis_data/vis_image'
        folder.mkdir(parents=True)
        for name in names:
            (folder / f'{name}.png').touch()
    found = answer_pictures(tmp_path)
    assert list(found) == [2, 10] and list(found[10]) == [9, 20], 'as numbers'
    assert found[10][20].parts[-4] == '2', 'of the later start'
