# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import runpy
import sys
from pathlib import Path

from mmdpad.evaluation.provenance import publish

BENCHMARKS = Path(__file__).parents[2] / 'tools/benchmarks'


def test_every_mask_is_scored(monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, 'argv', ['evaluate_masks.py', '--images', '4', '--size', '90', '60',
                                      '--repeats', '1'])
    runpy.run_path(str(BENCHMARKS / 'evaluate_masks.py'), run_name='__main__')
    result = json.loads(capsys.readouterr().out)
    assert result['samples'] == 4 and 0 < result['giou'] < 100
    assert len(result['seconds']['evaluate_masks']) == 1
    publish(None)
