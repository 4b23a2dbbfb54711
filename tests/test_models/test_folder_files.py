# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""An adapter beside a full model, by every way in; the other cases are in `folder_cases/`."""
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from policy_folders import change_json

from mmdpad.models import VLMReasoningHead
from mmdpad.models.cost import read_policy_config
from mmdpad.models.decoders import SAM2Decoder
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.sam_folders import make_sam2_folder

TOLD = r'adapter_config.json lies beside the config.json of a complete model.* delete or move it'


@pytest.fixture
def folder(tmp_path) -> Path:
    return leave_adapter(shutil.copytree(POLICY_WEIGHTS, tmp_path / 'policy'))


def leave_adapter(folder) -> Path:
    change_json(Path(folder) / 'adapter_config.json', peft_type='LORA', target_modules=['q_proj'])
    return Path(folder)


@pytest.mark.parametrize('use', [
    VLMReasoningHead, import_policy, read_policy_config,
    lambda path: export_policy('not/read.pth', dict(pretrained=path), Path(path)),
    lambda path: export_policy('not/read.pth', dict(pretrained=path, lora=dict(r=4)), Path(path),
                               merge_lora=True)],
    ids=['head', 'from_hf', 'estimate', 'to_hf', 'merge'])
def test_it_is_refused_wherever_a_policy_is_read(use, folder):
    with pytest.raises(ValueError, match=TOLD):
        use(str(folder))


def test_it_is_refused_by_decoders(tmp_path):
    folder = make_sam2_folder(tmp_path / 'sam2')
    SAM2Decoder(folder)
    with pytest.raises(ValueError, match=TOLD):
        SAM2Decoder(str(leave_adapter(folder)))


def test_it_is_refused_in_the_cache_of_the_hub(folder, tmp_path, monkeypatch):
    cached = tmp_path / 'cache/models--some-lab--a-model'
    (cached / 'snapshots').mkdir(parents=True)
    (cached / 'refs').mkdir()
    (cached / 'refs/main').write_text('0' * 40)
    shutil.copytree(folder, cached / 'snapshots' / ('0' * 40))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    with pytest.raises(ValueError, match=TOLD):
        VLMReasoningHead('some-lab/a-model')
    (cached / 'snapshots' / ('0' * 40) / 'adapter_config.json').unlink()
    assert VLMReasoningHead('some-lab/a-model').family.name == 'Qwen2.5-VL'


@pytest.mark.parametrize('command', [
    ['tools/train.py', '--dry-run'], ['tools/test.py', '--dry-run'], ['tools/train.py', '--smoke'],
    ['tools/train.py'], ['tools/test.py'],
    ['tools/analysis_tools/estimate_cost.py']], ids=' '.join)
def test_commands_say_it_in_a_line(command, folder, tiny_config, run_here, tmp_path):
    tool, *flags = command
    tiny_config.model.policy.pretrained = str(folder)
    tiny_config.dump(tmp_path / 'config.py')
    told = run_here(tool, tmp_path / 'config.py', *flags)
    assert told.returncode == 1
    assert 'adapter_config.json lies beside' in told.stdout + told.stderr
    assert 'Traceback' not in told.stderr
