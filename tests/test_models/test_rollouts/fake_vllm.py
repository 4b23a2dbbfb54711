# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A fake of the package vllm: the part of its interface that is used, on a copy of the tiny
policy of its own. test_real_vllm.py runs vLLM itself; this serves where it is not installed."""
from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.rollouts import vllm_weights
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 16
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self):
        assert self.temperature > 0 or self.n == 1  # vLLM's own rule
        assert all(abs(bias) <= 100 for bias in self.logit_bias.values())
        assert self.seed is None or 0 <= self.seed < 2**63


class LLM:
    """Its ``calls`` are names and arguments in their order; ``prompts`` the requests."""

    made: list[LLM] = []

    def __init__(self, model, *, dtype, seed, tensor_parallel_size, gpu_memory_utilization,
                 max_model_len, enable_sleep_mode, logprobs_mode, limit_mm_per_prompt):
        assert (dtype, tensor_parallel_size, logprobs_mode) == (
            'float32', 1, 'processed_logprobs')
        self.head = VLMReasoningHead(model, prompt_template=SHAPES_PROMPT_TEMPLATE).eval()
        self.ends = self.head.end_tokens
        self.can_sleep = enable_sleep_mode
        self.max_images = limit_mm_per_prompt['image']
        self.awake = {'weights', 'kv_cache'}
        self.seen: dict[str, tuple] = {}  # what the vision tower made of images, by their names
        self.llm_engine = self
        self.calls: list = []
        self.prompts: list = []
        LLM.made.append(self)

    def sleep(self, level=1):
        assert self.can_sleep
        self.calls.append(('sleep', level))
        self.awake = set()
        if level == 2:
            for parameter in self.head.parameters():
                parameter.data.zero_()

    def wake_up(self, tags=None):
        self.calls.append(('wake_up', *tags))
        self.awake |= set(tags)

    def apply_model(self, function):
        assert 'weights' in self.awake
        return [function(self.head.model)]

    def collective_rpc(self, method, kwargs):
        assert method == 'reload_weights' and 'weights' in self.awake
        self.calls.append((method, ))
        own = dict(self.head.model.named_parameters())
        for name, value in kwargs['weights_iterator']:
            own.pop(name).data.copy_(value)  # an unknown name is an error
        assert not own

    def reset_prefix_cache(self):
        self.calls.append(('reset_prefix_cache', ))
        return True

    def reset_mm_cache(self):
        self.calls.append(('reset_mm_cache', ))
        self.seen.clear()

    def reset_encoder_cache(self):
        self.calls.append(('reset_encoder_cache', ))

    def generate(self, prompts, sampling_params, *, use_tqdm):
        assert self.awake == {'weights', 'kv_cache'}
        assert not torch.is_autocast_enabled('cpu')
        self.calls.append(('generate', ))
        self.prompts += prompts
        return [self._answer(prompt, params)
                for prompt, params in zip(prompts, sampling_params, strict=True)]

    def _answer(self, request, params):
        assert request.keys() == {'prompt_token_ids', 'multi_modal_data', 'multi_modal_uuids'}
        assert {*self.ends} <= {*params.stop_token_ids} and params.ignore_eos
        self.head.end_tokens = params.stop_token_ids
        assert not params.detokenize
        assert params.logit_bias == dict.fromkeys(self.head.vision_token_ids, -100.0)
        prompt = self._expand(request)
        engine = SharedPrefixRollout(records_log_probs=True)
        responses = engine(self.head, [prompt], params.n, params.temperature, params.max_tokens,
                           params.top_p, params.top_k, params.seed)
        outputs = []
        for row in range(params.n):
            ids = responses.ids[row][responses.mask[row]].tolist()
            logprobs = None
            if params.logprobs is not None:
                # Of greedy responses ours records none.
                logp = [0.0] * len(ids) if responses.logp is None else responses.logp[row].tolist()
                logprobs = [{token: SimpleNamespace(logprob=value)} for token, value in
                            zip(ids, logp, strict=False)]
            outputs.append(SimpleNamespace(
                index=row, token_ids=ids, logprobs=logprobs,
                finish_reason='length' if responses.truncated[row] else 'stop'))
        return SimpleNamespace(prompt_token_ids=prompt.input_ids.tolist(), outputs=outputs[::-1])

    def _expand(self, request):
        image_token = self.head.model.config.image_token_id
        images = request['multi_modal_data']['image']
        assert request['prompt_token_ids'].count(image_token) == len(images) <= self.max_images
        seen = [self._see(*given) for given in zip(
            images, request['multi_modal_uuids']['image'], strict=True)]
        counts = iter(seen)
        ids = torch.tensor([token for given in request['prompt_token_ids'] for token in
                            [given] * (len(next(counts)[2][0]) if given == image_token else 1)])
        pixels, grids, visions = zip(*seen, strict=True)
        return EncodedPrompt(
            ids, (ids == image_token).int(), torch.cat(pixels), torch.cat(grids),
            tuple(torch.cat(level) for level in zip(*visions, strict=True)))

    def _see(self, image, name):
        """Pixels and grid of an image, and its features, unless one of that name was seen."""
        values = self.head.processor.image_processor(images=[image], return_tensors='pt')
        pixels, grid = values['pixel_values'], values['image_grid_thw']
        if name not in self.seen:
            none = torch.zeros(0, dtype=torch.long)
            (self.seen[name], ) = self.head.family.encode_images(
                self.head.model, [EncodedPrompt(none, none, pixels, grid)])
        return pixels, grid, self.seen[name]


def install(monkeypatch) -> list[LLM]:
    """Puts the fake where ``import vllm`` finds it; returns the engines that get made."""
    module = ModuleType('vllm')
    module.__spec__ = ModuleSpec('vllm', None)
    module.LLM, module.SamplingParams = LLM, SamplingParams
    module.ModelRegistry = SimpleNamespace(
        get_supported_archs=lambda: dict.fromkeys(['Qwen2_5_VLForConditionalGeneration']).keys())
    monkeypatch.setitem(sys.modules, 'vllm', module)
    monkeypatch.setattr(LLM, 'made', [])
    monkeypatch.setattr(vllm_weights, 'find_missing', lambda model: [])
    monkeypatch.setattr(vllm_weights, 'biases_required', nullcontext)
    return LLM.made
