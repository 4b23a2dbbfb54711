# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What vLLM is asked."""
from types import SimpleNamespace

from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.rollouts.sampling import Sampling
from mmdpad.models.rollouts.vllm_requests import sampling_settings
from mmdpad.toy.policy_folder import make_policy_folder


def test_only_the_end_tokens_of_the_policy_end_a_response(tmp_path):
    """GLM-4.1V's generation_config.json also names </answer>, after which the caption comes."""
    responses = PromptEncoder(make_policy_folder(tmp_path, 'glm4v'), 'default', 1300).responses
    head = SimpleNamespace(end_tokens=responses.end_tokens, vision_token_ids=[5])
    settings = sampling_settings(head, Sampling(4, 1.0, 8, 1.0, 0, 0, [0]))
    names = responses.tokenizer.convert_ids_to_tokens(settings['stop_token_ids'])
    assert names == ['<|endoftext|>', '<|user|>', '<|observation|>']
    assert settings['ignore_eos']  # or vLLM adds those of the file
