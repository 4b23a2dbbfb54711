# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""On fakes of vLLM's server; test_real_vllm_server.py runs vLLM itself."""
import re
import threading
from dataclasses import replace

import pytest
import torch
from fake_server import FakeServer, FakeTransfer
from same_responses import assert_same

from mmdpad.models import SharedPrefixRollout, VLLMServerRollout, VLMReasoningHead
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import vllm_server_rollout
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.models.rollouts.vllm_client import Server, ServerError, check_server, generate

GREEDY = dict(temperature=0, max_new_tokens=24)


@pytest.fixture(scope='module')
def both():
    servers = [FakeServer(), FakeServer()]
    yield servers
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def servers(both):
    for server in both:
        server.reset()
    return both


@pytest.fixture
def prompts(prompts):
    """As nobody has seen them: a head with a fixed tower leaves with them what it saw."""
    return [replace(prompt, vision=None) for prompt in prompts]


@pytest.fixture
def own_head(policy_config):
    return VLMReasoningHead(**policy_config)


@pytest.fixture
def make(servers, own_head, monkeypatch):
    def made(number=2, **options):
        monkeypatch.setattr(vllm_server_rollout, 'WeightTransfer', lambda: FakeTransfer(servers))
        engine = VLLMServerRollout([server.url for server in servers[:number]],
                                   **{'dtype': 'float32', 'timeout': 20, **options})
        engine.check_policy(own_head)
        return engine
    return made


def take_a_step(head, rate=0.02):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(
                parameter.numel())), alpha=rate)


def test_answers_are_those_of_the_present_weights(make, own_head, prompts, servers):
    engine = make()
    for _ in range(2):
        assert_same(engine(own_head, prompts, **GREEDY),
                    SharedPrefixRollout()(own_head, prompts, **GREEDY))
        take_a_step(own_head)
    requests = [body for server in servers for body in server.requests]
    versions = {body['cache_salt'] for body in requests}
    assert len(versions) == 2
    for body in requests:  # an image's features are of the weights that are served
        assert body['content_parts'][0]['uuid'].split('-')[0] == body['cache_salt']
    assert [server.events.count('weights') for server in servers] == [2, 2]
    # A probe of each server, and three prompts for two of them, twice.
    assert sorted(len(server.requests) for server in servers) == [4, 4]


def test_drawn_responses_and_their_log_probs(make, own_head, prompts):
    how = dict(group_size=4, temperature=0.8, max_new_tokens=45, seed=(3, 1))
    first = make()(own_head, prompts, **how)
    assert first.logp is not None and 0 < first.truncated.sum() < 12
    with torch.no_grad():
        logp, _ = own_head.log_probs(prompts, first.ids, first.mask, 0.8)
    torch.testing.assert_close(first.logp, logp * first.mask, rtol=0, atol=1e-4)
    # Draws depend on a prompt's number, not on the batch or the server.
    other = make(1)(own_head, prompts[1:], prompt_numbers=[1, 2], **how)
    assert_same(Responses(*(value[:, :first.ids.shape[1]] for value in other[:2]), other.truncated),
                Responses(*(value[4:, :other.ids.shape[1]] for value in first[:2]),
                          first.truncated[4:]))
    assert make(records_log_probs=False)(own_head, prompts, max_new_tokens=4).logp is None


def test_weights_wait_for_the_requests_in_flight(make, own_head, prompts, servers):
    engine, go = make(1), threading.Event()
    expected = SharedPrefixRollout()(own_head, prompts, **GREEDY)
    engine(own_head, prompts[:1], **GREEDY)
    servers[0].fault = lambda body: go.wait(20) and None
    pending = engine.submit(own_head, prompts, **GREEDY)
    take_a_step(own_head)
    # Otherwise a training that ends early would let weights overtake the requests.
    assert not pending.done() and not pending.cancel()
    del servers[0].events[:]
    threading.Timer(0.3, go.set).start()
    newer = engine(own_head, prompts, **GREEDY)
    assert_same(pending.result(), expected)
    assert_same(newer, SharedPrefixRollout()(own_head, prompts, **GREEDY))
    assert servers[0].events.index('weights') == servers[0].events.index('asked', 3) - 1
    assert servers[0].events[:servers[0].events.index('weights')].count('answered') == 3


def other_weights(server):
    server.version = 'default'


def hang(server):
    server.hung.wait(30)
    return 0, None


FAULTS = {
    'dies': (lambda server: (0, None), 'does not answer POST /inference/v1/generate'),
    'hangs': (hang, r'did not answer POST /inference/v1/generate within 0\.5 s'),
    'breaks': (lambda server: (500, 'EngineDeadError'), 'with status 500: "EngineDeadError"'),
    'restarts': (other_weights, 'should have the weights of version .*, but has those of default'),
    'is another one now': (lambda server: (404, 'Not Found'), 'with status 404: "Not Found"'),
    'is another program': (lambda server: (200, dict(choices=[])), 'something other than tokens'),
    'ends requests': (lambda server: (200, dict(prompt_token_ids=[], choices=[dict(
        index=0, token_ids=[], finish_reason='abort', logprobs=dict(content=[]))])), "'abort'"),
}


@pytest.mark.promise('Training', 'A vLLM server dies, hangs, restarts or answers wrongly',
                     'its requests go to the others, with the same answers; without any left, an '
                     'error that says what was seen of each')
@pytest.mark.parametrize('fault', FAULTS)
def test_a_server_that_fails_is_left_to_the_others(make, own_head, prompts, servers, fault,
                                                   monkeypatch, tried):
    engine = make()
    expected = engine(own_head, prompts, **GREEDY)
    monkeypatch.setattr(vllm_server_rollout, 'generate', lambda server, *rest: generate(
        server, *rest[:-1], 0.5 if fault == 'hangs' and server.url == servers[0].url else 20))
    act, told = FAULTS[fault]
    servers[0].fault = lambda body: act(servers[0])
    assert_same(engine(own_head, prompts, **GREEDY), expected)
    servers[0].hung.set()
    (lost, ) = engine.lost.items()
    assert lost[0] == servers[0].url
    assert re.search(told, lost[1])
    servers[0].fault = lambda body: None
    before = len(servers[0].requests)
    take_a_step(own_head)
    engine(own_head, prompts, **GREEDY)  # it would need the new weights
    assert len(servers[0].requests) == before and servers[0].events.count('weights') == 1
    servers[1].fault = lambda body: (500, 'and the other')
    with pytest.raises(ServerError, match='no other is left: .*and the other') as found:
        engine(own_head, prompts, **GREEDY)
    assert servers[0].url in str(found.value) and servers[1].url in str(found.value)
    tried('two servers, one that ' + ', '.join(FAULTS))


def test_no_server_gets_more_requests_at_a_time(make, own_head, prompts, servers):
    """Also when another one is lost."""
    engine, lock = make(max_requests=2), threading.Lock()
    engine(own_head, prompts, **GREEDY)
    present, most = 0, 0

    def count(body):
        nonlocal present, most
        with lock:
            present += 1
            most = max(most, present)
        threading.Event().wait(0.1)
        with lock:
            present -= 1

    servers[0].fault, servers[1].fault = count, lambda body: (0, None)
    engine(own_head, prompts * 3, **GREEDY)
    assert most == 2 and engine.lost.keys() == {servers[1].url}


def test_weights_follow_a_rollout_that_nobody_waits_for(make, own_head, prompts, servers):
    """As after a training that failed, in the same process."""
    engine, go = make(1), threading.Event()
    engine(own_head, prompts[:1], **GREEDY)
    servers[0].fault = lambda body: go.wait(30) and None
    pending = engine.submit(own_head, prompts, **GREEDY)
    pending.cancel()
    take_a_step(own_head)
    threading.Timer(0.1, go.set).start()
    assert_same(engine.submit(own_head, prompts, **GREEDY).result(20),
                SharedPrefixRollout()(own_head, prompts, **GREEDY))


def test_held_weights_are_not_compared_with_other_processes(make, own_head, prompts, monkeypatch):
    engine = make(1)
    engine.hand_over(own_head)
    monkeypatch.setattr(vllm_server_rollout, 'all_gather_object', None)
    monkeypatch.setattr(vllm_server_rollout, 'weights_version', None)
    with engine.holding_weights():
        assert_same(engine(own_head, prompts, **GREEDY),
                    SharedPrefixRollout()(own_head, prompts, **GREEDY))
    with pytest.raises(TypeError):
        engine(own_head, prompts, **GREEDY)


def test_a_refused_request_is_not_tried_elsewhere(make, own_head, prompts, servers):
    engine = make()
    engine(own_head, prompts, **GREEDY)
    for server in servers:
        server.fault = lambda body: (400, 'n must be at most max_num_seqs')
    with pytest.raises(ServerError, match='status 400: "n must be at most'):
        engine(own_head, prompts, **GREEDY)
    assert not engine.lost


def test_a_server_that_takes_no_weights_is_not_asked(make, own_head, prompts, servers):
    engine = make()
    engine.transfer.failing[servers[1].url] = f'vLLM server {servers[1].url} refused a weight'
    assert_same(engine(own_head, prompts, **GREEDY),
                SharedPrefixRollout()(own_head, prompts, **GREEDY))
    assert engine.lost.keys() == {servers[1].url} and not servers[1].requests


def test_what_one_process_loses_none_uses(make, own_head, prompts, servers, monkeypatch):
    """Said when weights are sent; another process may sample fewer batches."""
    engine, others = make(), []
    monkeypatch.setattr(vllm_server_rollout, 'all_gather_object',
                        lambda own: [own, others.pop(0)])
    others[:] = [{}]
    engine(own_head, prompts, **GREEDY)
    engine(own_head, prompts, **GREEDY)
    take_a_step(own_head)
    others[:] = [{servers[1].url: 'it hung'}]
    engine(own_head, prompts, **GREEDY)
    assert [server.events.count('weights') for server in servers] == [2, 1]
    others[:] = [{servers[0].url: 'cannot be reached from there'}]
    with pytest.raises(ServerError, match='cannot be reached from there'):
        engine.check_policy(own_head)


def test_another_prompt_there_is_an_error(make, own_head, prompts, servers):
    def longer(body):
        answer = servers[0].answer(body)
        return 200, dict(answer, prompt_token_ids=[5, *answer['prompt_token_ids']])
    servers[0].fault = longer
    with pytest.raises(RuntimeError, match=f'server {servers[0].url} should see the same prompt'):
        make(1)(own_head, prompts, **GREEDY)


def test_other_probabilities_there_are_an_error(make, own_head, prompts, servers):
    """As of a server that normalizes images otherwise."""
    servers[0].clamp = lambda value: value - 0.02
    engine = make(1)
    for _ in range(2):  # whoever tries again is told so again
        with pytest.raises(RuntimeError, match=r'log-probabilities are off by 0\.02 nats'):
            engine(own_head, prompts, **GREEDY)


def test_logits_that_are_not_finite_are_found(make, own_head, prompts, servers):
    engine = make()
    engine(own_head, prompts, **GREEDY)
    for server in servers:
        server.clamp = lambda value: -9999.0  # vLLM's for minus infinity and NaN
    with pytest.raises(NonFiniteError, match='token 1 of a response to prompt 0'):
        engine(own_head, prompts, **GREEDY)
    for server in servers:  # until vLLM 0.31
        server.fault = lambda body: (400, 'Out of range float values are not JSON compliant')
    with pytest.raises(NonFiniteError, match='of a response to prompt 0'):
        engine(own_head, prompts, **GREEDY)
    assert not engine.lost


def test_prompts_and_responses_have_to_fit(make, own_head, prompts):
    with pytest.raises(ValueError, match=r'one takes 512; start it with `--max-model-len 5\d\d`'):
        make()(own_head, prompts, max_new_tokens=512)


WRONG = {
    'version': (lambda server: server.pages.update({'/version': (200, dict(version='0.29.0'))}),
                r'from 0\.30 to below 0\.34, but runs 0\.29\.0'),
    'no development mode': (lambda server: server.pages.pop('/server_info'),
                            'VLLM_SERVER_DEV_MODE=1'),
    'no tokens in': (lambda server: vars(server).update(scale_out=404), '--enable-scale-out'),
    'no tokens in, 0.32': (lambda server: vars(server).update(scale_out=403),
                           '--enable-scale-out'),
    'dtype': (lambda server: config_of(server)['model_config'].update(dtype='torch.bfloat16'),
              "`dtype` = 'float32', but has 'bfloat16'"),
    'log-probabilities': (
        lambda server: config_of(server)['model_config'].update(logprobs_mode='raw_logprobs'),
        "`logprobs_mode` = 'processed_logprobs', but has 'raw_logprobs'"),
    'prompts in parts': (
        lambda server: config_of(server)['scheduler_config'].update(enable_chunked_prefill=True),
        '`enable_chunked_prefill` = False, but has True'),
    'not vLLM': (lambda server: server.pages.clear(),
                 r'answered GET /version with status 404.*serve-rollouts'),
    'another program': (lambda server: server.pages.update({'/version': (200, ['1.0'])}),
                        'should be one of vLLM, but answers otherwise'),
}


def config_of(server):
    return server.pages['/server_info'][1]['vllm_config']


def test_a_server_without_a_limit_of_images_takes_many(servers):
    servers[0].model_config['multimodal_config'].update(limit_per_prompt={})
    assert check_server(Server(servers[0].url), 'float32') == (512, 999)


@pytest.mark.parametrize('fault', WRONG)
def test_a_server_of_no_use_is_refused_before_the_start(servers, fault):
    assert check_server(Server(servers[0].url), 'float32') == (512, 3)
    change, told = WRONG[fault]
    change(servers[0])
    with pytest.raises(ServerError, match=told) as found:
        check_server(Server(servers[0].url), 'float32')
    assert servers[0].url in str(found.value)


def test_all_servers_of_no_use_are_named(make, servers):
    servers[0].pages.pop('/server_info')
    servers[1].scale_out = 404
    with pytest.raises(ServerError, match='VLLM_SERVER_DEV_MODE.*--enable-scale-out'):
        make()


@pytest.mark.parametrize('given, told', [
    (dict(urls=[]), 'at least one address'), (dict(urls=['127.0.0.1:8000']), 'addresses such as'),
    (dict(urls=['http://a:1', 'http://a:1/']), 'none twice'),
    (dict(urls='http://a:1/v1'), 'without a path'),
    (dict(urls='http://a:1', max_requests=0), '`max_requests` should be at least 1'),
    (dict(urls='http://a:1', timeout=float('nan')), '`timeout` should be a positive number of'),
    (dict(urls='http://a:1', timeout=float('inf')), '`timeout` should be a positive number of'),
])
def test_wrong_arguments(given, told):
    with pytest.raises(ValueError, match=told):
        VLLMServerRollout(**given)
