# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What vLLM is asked."""
import json
from types import SimpleNamespace

import pytest

from mmdpad.models import VLLMRollout, VLLMServerRollout
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.rollouts import vllm_rollout, vllm_server_rollout
from mmdpad.models.rollouts.vllm_requests import check_ends
from mmdpad.toy.policy_folder import make_policy_folder


def test_a_tag_that_would_end_a_response_in_vllm_is_refused(tmp_path, monkeypatch):
    """It stops at all that GLM-4.1V's generation_config.json names, </answer> too."""
    for module in (vllm_rollout, vllm_server_rollout):
        monkeypatch.setattr(module, 'check_handover', lambda model: None)
    folder = make_policy_folder(tmp_path, 'glm4v')
    head = SimpleNamespace(encoder=PromptEncoder(folder, 'default', 1300), model=None)
    (tag, ) = head.encoder.responses.tag_ends
    for engine in (VLLMRollout, VLLMServerRollout):
        with pytest.raises(ValueError, match=rf'`eos_token_id` in generation_config.json of .* '
                                             rf'names \[{tag}\] \(</answer>\); remove it'):
            engine.check_policy(None, head)
    path = tmp_path / 'generation_config.json'
    content = json.loads(path.read_text())
    content['eos_token_id'].remove(tag)
    path.write_text(json.dumps(content))
    head.encoder = PromptEncoder(folder, 'default', 1300)
    check_ends(head)
    VLLMRollout.check_policy(None, head)
