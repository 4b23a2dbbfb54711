# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_row_for_each_setting_and_the_tests_that_fail_there(tmp_path):
    found = tmp_path / 'test_it.py'
    found.write_text('''
import os, torch

def test_its_capability():
    asked = os.environ.get('ATEN_CPU_CAPABILITY')
    assert asked is None or torch.backends.cpu.get_cpu_capability() == asked.upper()

def test_its_threads():
    assert 'MMDPAD_TEST_THREADS' not in os.environ
''')
    command = [sys.executable, 'tests/processors.py', '--settings', 'torch default', 'torch AVX2',
               'four threads', '--', str(found)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    default, avx2, threads, failed, *_ = told.stdout.splitlines()
    assert default.startswith('torch default') and default.endswith('2 passed')
    assert avx2.startswith('torch AVX2') and avx2.endswith('2 passed')
    assert threads.startswith('four threads') and 'test_its_threads' in failed
    assert told.returncode == 1
    assert default[21:27] != avx2[21:27], 'the settings change no bit'
