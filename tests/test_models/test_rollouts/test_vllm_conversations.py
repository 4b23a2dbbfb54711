# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Conversations on fakes of vLLM's interface and server; test_real_vllm.py and
test_real_vllm_server.py run vLLM itself."""
import fake_vllm
import pytest
import torch
from fake_server import FakeServer, FakeTransfer

from mmdpad.geometry.crops import CropLimits
from mmdpad.models import SharedPrefixRollout, VLLMRollout, VLLMServerRollout, VLMReasoningHead
from mmdpad.models.rollouts import conversations, vllm_rollout, vllm_server_rollout
from mmdpad.models.rollouts.conversations import ConversationSampler
from mmdpad.prompts.zoom import BadCall, Zoom

LIMITS = CropLimits(min_side=28, size=(112, 112))
SHAPE = (112, 112)
WHOLE = Zoom((0.0, 0.0, 112.0, 112.0))


@pytest.fixture(scope='module')
def server():
    server = FakeServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def own_head(policy_config):
    head = VLMReasoningHead(**policy_config, max_prompt_tokens=100).eval()
    head.end_tokens = [*head.end_tokens, *range(0, 300, 5)]  # so that most turns end in time
    return head


@pytest.fixture
def calls(monkeypatch):
    """What the turns are taken for, over and over; the toy policy writes no calls."""
    calls = []

    def read_turn(text):
        calls.append(calls.pop(0))
        return calls[-1]

    monkeypatch.setattr(conversations, 'read_turn', read_turn)
    return calls


@pytest.fixture(params=['in the process', 'server'])
def engine(request, monkeypatch):
    if request.param == 'server':
        server = request.getfixturevalue('server')
        server.reset()
        server.model_config['max_model_len'] = 600
        monkeypatch.setattr(vllm_server_rollout, 'WeightTransfer', lambda: FakeTransfer([server]))
        engine = VLLMServerRollout(server.url, 'float32', timeout=20)
        engine.check_servers(dict(model_type='qwen2_5_vl'))
    else:
        engine = VLLMRollout(dtype='float32', max_model_len=600)
    return engine


@pytest.fixture(autouse=True)
def made(monkeypatch):
    return fake_vllm.install(monkeypatch)


def sample(head, engine, max_turns=3, max_tokens=500, **sampling):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 224, 448), generator=generator, dtype=torch.uint8)
              for _ in range(2)]
    prompts = head.encode_prompts(
        [torch.full((3, *SHAPE), value, dtype=torch.uint8) for value in (90, 130)],
        ['the red circle', 'something you could roll'])
    sampler = ConversationSampler(engine, head, max_turns, max_tokens, LIMITS)
    return prompts, *sampler(prompts, images, [SHAPE] * 2, max_new_tokens=48, **sampling)


def test_conversations_are_those_of_the_policy(own_head, engine, calls):
    calls[:] = [Zoom((10.0, 20.0, 60.0, 90.0)), BadCall('bad_box')]
    _, expected, others = sample(own_head, SharedPrefixRollout(), temperature=0)
    assert [len(talk.texts) for talk in others] == [3, 3]
    assert sum(len(talk.replies) for talk in others) == 2
    calls[:] = [Zoom((10.0, 20.0, 60.0, 90.0)), BadCall('bad_box')]
    _, found, talks = sample(own_head, engine, temperature=0)
    assert found.ids.equal(expected.ids) and found.mask.equal(expected.mask)
    assert [talk.ended_by for talk in talks] == [talk.ended_by for talk in others]
    assert found.logp is None


def test_recorded_log_probs_are_those_that_are_trained(own_head, engine, calls):
    calls[:] = [Zoom((10.0, 20.0, 60.0, 90.0)), BadCall('bad_box'), None]
    prompts, found, talks = sample(own_head, engine, group_size=3, temperature=0.9, seed=(3, 1))
    assert {len(talk.texts) for talk in talks} >= {1, 3}
    assert any(talk.replies for talk in talks) and any(talk.bad_calls for talk in talks)
    with torch.no_grad():
        logp, _ = own_head.log_probs(prompts, found.ids, found.mask, 0.9,
                                     [talk.replies for talk in talks])
    torch.testing.assert_close(found.logp, logp, rtol=0, atol=1e-4)


def test_what_vllm_is_asked_turn_by_turn(own_head, calls, made):
    calls[:] = [WHOLE]  # the same crop twice
    engine = VLLMRollout(dtype='float32', sleep_level=2)
    sample(own_head, engine, temperature=0)
    (llm, ) = made
    assert llm.max_images == 3
    first, second, third = (llm.prompts[start:start + 2] for start in (0, 2, 4))
    names = [[request['multi_modal_uuids']['image'] for request in turn]
             for turn in (first, second, third)]
    for n in range(2):
        assert [len(turn[n]) for turn in names] == [1, 2, 3]
        assert names[2][n][:2] == names[1][n] and names[1][n][:1] == names[0][n]
        assert names[2][n][1] == names[2][n][2] != names[2][n][0]
        start = first[n]['prompt_token_ids']
        assert second[n]['prompt_token_ids'][:len(start)] == start
    # Weights are handed over once, and vLLM sleeps after the last turn.
    assert [name for name, *_ in llm.calls if not name.startswith('reset')] == [
        'reload_weights', 'generate', 'generate', 'generate', 'sleep']


def test_weights_are_compared_once_in_a_conversation(own_head, engine, calls, monkeypatch):
    """Processes have different numbers of turns, and compare them together."""
    compared = []
    for module in (vllm_rollout, vllm_server_rollout):
        monkeypatch.setattr(module, 'weights_version', lambda model: compared.append(1) or 'v1')
    calls[:] = [WHOLE]
    sample(own_head, engine, temperature=0)
    assert len(compared) == 1 and not engine.holds_weights
    with engine.taking_weights(own_head):  # as around an evaluation
        sample(own_head, engine, temperature=0)
        assert engine.holds_weights
    assert len(compared) == 2


@pytest.mark.parametrize('engine, limits, told', [
    ('in the process', dict(max_tokens=501), 'should be at least 601, the .* got 600'),
    ('server', dict(max_tokens=501), 'take 601 tokens and 3 images, .* one takes 600 tokens and 3'),
    ('server', dict(max_turns=4), 'take 600 tokens and 4 images, .* one takes 600 tokens and 3')],
    indirect=['engine'])
def test_conversations_that_do_not_fit_are_refused_at_once(own_head, engine, limits, told):
    with pytest.raises(ValueError, match=told):
        ConversationSampler(engine, own_head, **{**dict(
            max_turns=3, max_tokens=500, limits=LIMITS), **limits})
