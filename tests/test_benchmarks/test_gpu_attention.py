# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'
SMALL = ['--model', 'tiny', '--device', 'cpu', '--prompts', '2', '--prompt-tokens', '40',
         '--group-size', '3', '--lengths', '1', '9', '--repeats', '1']


@pytest.fixture
def gpu_attention(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('gpu_attention')


def varlen_attn(query, key, value, query_ends, key_ends, max_q, max_k, *, scale, window_size,
                enable_gqa):
    """Sequence after sequence, as the kernel does on CUDA: the last query sees all keys."""
    assert window_size == (-1, 0) and enable_gqa
    outputs = []
    for (start, end), (first, last) in zip(*(pairwise(ends.tolist()) for ends in
                                             (query_ends, key_ends)), strict=True):
        assert end - start <= max_q and last - first <= max_k
        visible = torch.ones(end - start, last - first).bool().tril(last - first - end + start)
        outputs.append(scaled_dot_product_attention(*(
            x.transpose(0, 1) for x in (query[start:end], key[first:last], value[first:last])),
            attn_mask=visible, scale=scale, enable_gqa=True).transpose(0, 1))
    assert end == len(query) and last == len(key)
    return torch.cat(outputs)


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
def test_all_ways_compute_the_same(gpu_attention, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.nn.attention.varlen',
                        SimpleNamespace(varlen_attn=varlen_attn))
    monkeypatch.setattr(gpu_attention, 'why_not', lambda way, device: None)
    result = json.loads(json.dumps(gpu_attention.measure(gpu_attention.parse_args(SMALL))))
    ways = result['ways']
    assert ways.keys() == {'copied', 'joined', 'varlen', 'flex'}
    for way in ways.values():
        assert way['agrees'] and max(way['difference']) < 1e-6
        assert way['forward']['seconds'] > 0 and way['prepare_seconds'] > 0
    assert [len(way['difference']) for way in ways.values()] == [4, 4, 4, 1]
    assert result['ratio']['forward'].keys() == {'joined', 'varlen', 'flex'}
    assert result['ratio']['forward_and_backward'].keys() == {'joined', 'varlen'}


def test_what_cannot_run_or_computes_something_else_is_told(gpu_attention, monkeypatch, capsys):
    class Wrong(gpu_attention.JoinedAttention):
        def __call__(self, *args):
            return super().__call__(*args) * 1.1

    def fail(*_):
        raise RuntimeError('no such kernel\nmore')

    monkeypatch.setitem(gpu_attention.KINDS, 'joined', Wrong)
    monkeypatch.setitem(gpu_attention.KINDS, 'flex', fail)
    monkeypatch.setattr(sys, 'argv', ['gpu_attention.py', *SMALL])
    with pytest.raises(SystemExit) as found:
        gpu_attention.main()
    ways = json.loads(capsys.readouterr().out)['ways']
    assert found.value.code == 1
    assert ways['varlen'] == dict(skipped='torch.nn.attention.varlen needs CUDA')
    assert ways['flex'] == dict(error='RuntimeError: no such kernel')
    assert ways['copied']['agrees'] and not ways['joined']['agrees']
