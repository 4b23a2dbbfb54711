# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import io
import json

import numpy as np
import pytest
from PIL import Image

from mmdpad.visualization import plot_curves
from mmdpad.visualization.curves import (
    band,
    plot_panels,
    plot_seeds,
    read_scalars,
    running_mean,
)


@pytest.fixture
def log(tmp_path):
    def write(rows, tail='', name='scalars'):
        path = tmp_path / f'{name}.json'
        path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n' + tail)
        return str(path)
    return write


def train(step, **values):
    return dict(values, iter=step, step=step, lr=1e-4, data_time=0.1)


def test_read_scalars(log):
    path = log([train(1, reward=1.0), train(2, reward=float('nan')),
                {'reasonseg/giou': 40.0, 'reward/total': 2, 'step': 2},
                train(3, reward=5.0), train(3, reward=3.0)], tail='{"rew')
    series = read_scalars(path)
    assert series['reward'] == ([1, 3], [1.0, 3.0]), 'the later of two lines, no NaN'
    assert series['val: reasonseg/giou'] == ([2], [40.0])
    assert series['val: reward/total'] == ([2], [2.0])


def test_logs_of_a_resumed_run_are_one(log):
    """It was killed at iteration 4 and resumed from 2; what came after 2 was trained again."""
    first = log([train(1, reward=1.0), train(2, reward=2.0), {'reasonseg/giou': 40.0, 'step': 2},
                 train(3, reward=0.0, old=1.0), train(4, reward=0.0),
                 {'reasonseg/giou': 0.0, 'step': 4}], name='first')
    second = log([train(3, reward=3.0), {'reasonseg/giou': 50.0, 'step': 3}], name='second')
    empty = log([], name='empty')
    for logs in ((first, second), (first, second, empty)):
        series = read_scalars(*logs)
        assert series['reward'] == ([1, 2, 3], [1.0, 2.0, 3.0])
        assert series['val: reasonseg/giou'] == ([2, 3], [40.0, 50.0])
        assert 'old' not in series
    rerun = log([{'reasonseg/giou': 60.0, 'step': 2}, train(3, reward=3.0)], name='made')
    assert read_scalars(first, rerun)['val: reasonseg/giou'] == ([2], [60.0])
    assert read_scalars() == {}


def test_panels_alone(log):
    series = read_scalars(log([train(i, **{'reward': i, 'signal/s_rank': 1, 'signal/s_roi': 0})
                               for i in (1, 2)]))
    panels = plot_panels(series)
    assert list(panels) == ['Mean reward', 'Similarities', 'Rank of the region']
    assert {Image.open(io.BytesIO(png)).size for png in panels.values()} == {(700, 476)}
    assert plot_panels({}) == {}
    of_a_second_term = {f'signal/domain_{name}': ([1], [0.5]) for name in ('s_roi', 's_rank')}
    assert list(plot_panels(of_a_second_term)) == ['Similarities', 'Rank of the region']
    assert plot_panels({'signal/other_rank': ([1], [0.5])}) == {}


def test_plot(log, tmp_path):
    rows = [train(i, **{'reward': i / 50, 'reward/box_iou': 0.5, 'reward/discriminative': 0.1 * i,
                        'kl': 1e-3 * i, 'reasoning_tokens': 30 - i / 5}) for i in range(1, 61)]
    rows += [{'reasonseg/giou': 40.0 + i, 'step': 20 * i} for i in range(4)]
    out = plot_curves(log(rows), str(tmp_path / 'plots' / 'curves.png'))
    picture = np.asarray(Image.open(out).convert('RGB'))
    assert picture.shape[1] > 1000 and (picture < 128).any(axis=2).mean() > 0.005
    assert plot_curves(log(rows), out).endswith('curves_2.png')


def test_a_few_series_are_enough(log, tmp_path):
    out = plot_curves(log([{'reasonseg/giou': 40.0, 'step': 0}]), str(tmp_path / 'a.png'))
    assert Image.open(out).size[0] < 700, 'one panel'


def test_files_that_are_no_training_log(log, tmp_path):
    with pytest.raises(ValueError, match=r"such as \"reward\".*but got .*json: \['data_time'"):
        plot_curves(log([train(1, loss=1.0)]), str(tmp_path / 'a.png'))
    with pytest.raises(ValueError, match='line 2 is not'):
        read_scalars(log([], tail='<html>\n{}\n'))
    with pytest.raises(ValueError, match='line 1 is list'):
        read_scalars(log([[1]]))
    with pytest.raises(FileNotFoundError):
        read_scalars(str(tmp_path / 'none.json'))


def test_running_mean():
    np.testing.assert_allclose(running_mean([1, 2, 6, 3], 3), [1.5, 3, 11 / 3, 4.5])


def test_band_by_hand():
    steps, mean, low, high = band([{1: 0.0, 2: 2.0, 3: 9.0}, {1: 1.0, 2: 4.0}])
    assert steps == [1, 2] and mean.tolist() == [0.5, 3.0]
    assert low.tolist() == [0.0, 2.0] and high.tolist() == [1.0, 4.0]
    long = {step: float(step % 2) for step in range(100)}
    assert np.ptp(band([long])[1][10:-10]) < 0.3, 'long curves are smoothed'


def test_seeds_are_drawn_where_they_have_something(log, tmp_path):
    assert plot_seeds({'none': [], 'other': [[log([train(1, loss=1.0)])]]}) is None
    first = log([train(1, reward=1.0), train(2, reward=2.0)])
    png = plot_seeds({'a$b$_{': [[first], [first, first]], 'none': []})
    assert Image.open(io.BytesIO(png)).size == (1100, 350)
