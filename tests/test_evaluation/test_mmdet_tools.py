# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Predictions that `--out` writes, and mmdet's tool that evaluates them."""
import re
from pathlib import Path

import mmdet
import pytest
from mmengine.fileio import load

ROOT = Path(__file__).parents[2]
EVAL_METRIC = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools/eval_metric.py'


@pytest.mark.skipif(not EVAL_METRIC.is_file(), reason='mmdet without its tools')
def test_mmdets_tool_reads_predictions_in_the_order_of_the_data(run_here, tiny_config, tmp_path):
    config = tiny_config
    config.test_evaluator = config.val_evaluator = [
        dict(type='CocoMetric', metric=['bbox', 'segm']), dict(type='RefSegMetric')]
    config.val_dataloader, config.val_cfg = config.test_dataloader, dict(type='ValLoop')
    config.dump(tmp_path / 'config.py')
    out = tmp_path / 'out.pkl'
    tested = run_here('tools/test.py', tmp_path / 'config.py', '--out', out)
    assert tested.returncode == 0 and tested.stdout.splitlines()[-1] == str(out)
    predictions = load(out)
    assert [sample['sample_idx'] for sample in predictions] == list(range(6))
    assert isinstance(predictions[0]['pred_instances']['masks'], list)  # RLEs
    again = run_here(EVAL_METRIC, tmp_path / 'config.py', out)
    told = {name: float(value) for name, value in
            re.findall(r"'([\w/]+)': (?:tensor\()?([-\d.]+)", again.stdout)}
    (log, ) = Path(config.work_dir).glob('*/*.json')
    metrics = {name: value for name, value in load(log).items() if not name.endswith('time')}
    assert len(metrics) == 14 and told == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize('name', ['out.txt', 'out'])
def test_other_files_are_refused_before_anything_else(run_here, name):
    told = run_here('tools/test.py', 'configs/dpad/tiny_shapes.py', '--out', name, '--dry-run')
    assert told.returncode == 1
    assert ('--out should end in .json, for all metrics, or in .pkl, for the predictions that '
            f"mmdet's tools read, but got '{name}'; rename it") in told.stderr
