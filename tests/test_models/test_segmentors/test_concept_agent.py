# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The agent with scripted responses and a decoder of known instances, and with tiny models."""
import copy
import json
import re

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmdpad.apis import ReasonSegInferencer
from mmdpad.datasets.transforms.model_image import model_image_sizes
from mmdpad.engine.check_config import check_config
from mmdpad.engine.hooks.response_cache_hook import describe_maker
from mmdpad.models import ConceptAgent, ConceptDecoder
from mmdpad.models.decoders.instances import Instances
from mmdpad.models.rollouts.engine import RolloutEngine
from mmdpad.models.rollouts.sampling import cut_responses
from mmdpad.preflight import dry_run
from mmdpad.prompts import normalize_question
from mmdpad.registry import DATASETS, MODELS, ROLLOUTS
from mmdpad.structures import ParseFailure, ReasoningOutput
from mmdpad.toy.sam_folders import make_sam3_folder


class Script(RolloutEngine):
    """Writes given responses, whatever the prompt, and keeps the prompts as text."""

    def __init__(self, texts=()):
        self.texts, self.prompts, self.longest = list(texts), [], 0

    def sample(self, head, prompts, how):
        self.longest = max(self.longest, *map(len, prompts), 0)
        self.prompts += [head.processor.tokenizer.decode(p.input_ids) for p in prompts]
        if self.streamer is not None:
            self.streamer(torch.zeros(len(prompts), dtype=torch.long))
        rows, _ = head.encode_responses([self.texts.pop(0) for _ in prompts])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True,
                                              padding_value=head.end_tokens[0])
        return cut_responses(ids, head.end_tokens, head.pad_token)


class Quarters(ConceptDecoder):
    """Finds the upper left quarter of the image for 'one', and both upper ones for 'two'."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.asked = torch.nn.Parameter(torch.zeros(1)), []
        self.freeze()

    def find(self, image, text):
        self.asked.append(text)
        masks = torch.zeros(2, *image.shape[:2], dtype=torch.bool)
        height, width = image.shape[:2]
        masks[0, :height // 2, :width // 2] = masks[1, :height // 2, width // 2:] = True
        count = dict(one=1, two=2).get(text, 0)
        return Instances.of(masks[:count], torch.tensor([0.9, 0.8])[:count])

    def segment(self, image, boxes, points):
        raise AssertionError('an agent has no boxes')


@pytest.fixture(autouse=True)
def registered():
    ROLLOUTS.register_module(module=Script)
    MODELS.register_module(module=Quarters)
    yield
    ROLLOUTS._module_dict.pop('Script')
    MODELS._module_dict.pop('Quarters')


@pytest.fixture
def agent_config(tiny_config):
    tiny_config.model.type = 'ConceptAgent'
    tiny_config.model.decoder = dict(type='Quarters')
    tiny_config.model.rollout_engine = dict(type='Script')
    tiny_config.model.policy.max_prompt_tokens = 1300
    return tiny_config


@pytest.fixture
def ask(agent_config):
    batch = next(iter(Runner.build_dataloader(dict(agent_config.test_dataloader, batch_size=1))))

    def run(*texts, stored=None, **settings):
        agent = MODELS.build(dict(agent_config.model, rollout_engine=dict(
            type='Script', texts=texts), **settings)).eval()
        given = copy.deepcopy(batch)
        if stored is not None:
            given['data_samples'][0].cached_response = stored
        sample, = agent.test_step(given)
        assert not agent.rollout_engine.texts
        return sample, agent
    return run


PHRASE, VERDICT = '<phrase>{}</phrase>'.format, '<verdict>{}</verdict>'.format
ONE, TWO, OTHER = map(PHRASE, ('one', 'two', 'other'))
YES, NO = map(VERDICT, ('accept', 'reject'))


def test_the_accepted_instances_are_the_answer(ask):
    sample, agent = ask(TWO, NO, YES)
    found, reasoning = sample.pred_instances, sample.reasoning
    height, width = found.masks.shape[1:]
    assert found.masks.shape[0] == 1 and found.masks[0, 0, width - 1] and not found.masks[0, 0, 0]
    assert found.bboxes.tolist() == [[width // 2, 0, width - 1, height // 2 - 1]]
    assert found.scores.tolist() == pytest.approx([0.8])
    assert isinstance(reasoning['parsed'], ReasoningOutput)
    assert reasoning['parsed'].caption == 'two' and len(reasoning['parsed'].objects) == 1
    assert json.loads(reasoning['response']) == [TWO, NO, YES]
    tokens = sum(map(agent.policy.count_tokens, (TWO, NO, YES)))
    assert reasoning['calls'] == dict(vlm_calls=3, sam_calls=1, generated_tokens=tokens)


def test_rounds_go_on_until_one_is_accepted(ask):
    sample, agent = ask(OTHER, ONE, NO, TWO, YES, YES)
    assert agent.decoder.asked == ['other', 'one', 'two']
    assert len(sample.pred_instances) == 2
    assert sample.reasoning['calls']['sam_calls'] == 3
    prompts = agent.rollout_engine.prompts
    assert '"other"' not in prompts[0] and 'fits: "other".' in prompts[1]
    assert 'fits: "other"; "one".' in prompts[3]
    assert all(sample.question in prompt for prompt in prompts)


@pytest.mark.parametrize('texts, calls', [
    ((ONE, NO), (2, 1)), ((OTHER, ), (1, 1)), (('no phrase', ), (1, 0)), ((ONE, 'yes'), (2, 1))])
def test_without_an_accepted_instance_it_fails(ask, texts, calls):
    sample, _ = ask(*texts, max_rounds=1)
    failure = sample.reasoning['parsed']
    assert isinstance(failure, ParseFailure) and failure.reason == 'no_mask'
    assert sample.pred_instances.masks.shape[0] == 0
    counted = sample.reasoning['calls']
    assert (counted['vlm_calls'], counted['sam_calls']) == calls


def test_it_stops_where_the_next_prompt_would_be_the_same(ask):
    _, agent = ask('no phrase', max_rounds=9)
    assert agent.decoder.asked == []
    _, agent = ask(ONE, NO, ONE, max_rounds=9)
    assert agent.decoder.asked == ['one']


def test_phrases_of_any_length_do_not_end_an_evaluation(ask, agent_config):
    """Here the limit is that of the first prompt."""
    _, agent = ask(ONE, YES)
    agent_config.model.policy.max_prompt_tokens = agent.rollout_engine.longest
    with pytest.raises(ValueError, match='at most `max_prompt_tokens`'):
        ask(ONE, policy=dict(agent_config.model.policy, max_prompt_tokens=99))
    phrases = [PHRASE(f'{n} ' + '\N{SNOWMAN}' * 500) for n in range(8)]
    _, agent = ask(*phrases, max_rounds=8)
    assert len(agent.decoder.asked) == 8 and max(map(len, agent.decoder.asked)) == 100
    assert agent.rollout_engine.longest > agent_config.model.policy.max_prompt_tokens


def test_prompts_that_are_too_long_are_named_before_work_starts(agent_config):
    """Those of the agent in an evaluation, of which that for a phrase is the longest; those of the
    policy in training."""
    encoder = MODELS.build(agent_config.model.policy).encoder
    dataset = DATASETS.build(agent_config.test_dataloader.dataset)
    sizes = model_image_sizes(dataset)
    questions = [normalize_question(dataset.get_data_info(i)['question'])
                 for i in range(len(dataset))]
    longest = {}
    for name, template in dict(ConceptAgent.test_templates, own=encoder.template).items():
        agent_config.model.policy.max_prompt_tokens = encoder.max_tokens = 99999
        one = encoder.with_template(template)
        longest[name] = max(len(one(torch.zeros(3, height, width, dtype=torch.uint8), question))
                            for width, height in sizes for question in questions)
    assert longest['own'] < longest['verdict'] < longest['phrase']
    for limit, names in ((longest['phrase'], ()), (longest['verdict'], ('phrase', )),
                         (longest['verdict'] - 1, ('phrase', 'verdict'))):
        agent_config.model.policy.max_prompt_tokens = limit
        problems = dry_run(agent_config, training=False)[0]
        assert len(problems) == len(names)
        for name, problem in zip(names, problems, strict=True):
            assert re.match(rf'`test_dataloader`: `{name}` prompt: A prompt should have at '
                            rf'most `max_prompt_tokens` = {limit} tokens', problem)
        if names:
            with pytest.raises(ValueError, match=f'`{names[0]}` prompt: A prompt should have at'):
                Runner.from_cfg(agent_config).test()
    assert Runner.from_cfg(agent_config).build_train_loop(agent_config.train_cfg)


def test_nothing_may_be_the_answer_where_questions_may_have_none(ask):
    sample, _ = ask(OTHER, max_rounds=1, several_objects=True)
    assert sample.reasoning['parsed'] == ReasoningOutput(None, 'other', ())
    sample, _ = ask('no phrase', several_objects=True)
    assert sample.reasoning['parsed'].reason == 'no_mask'


def test_only_the_first_instances_are_looked_at(ask):
    sample, _ = ask(TWO, YES, max_instances=1)
    assert len(sample.pred_instances) == 1


def test_stored_responses_are_used_again(ask):
    first, _ = ask(TWO, NO, YES)
    stored = first.reasoning['response'], True
    again, agent = ask(stored=stored)
    assert agent.rollout_engine.prompts == [] and again.reasoning['truncated']
    assert torch.equal(again.pred_instances.masks, first.pred_instances.masks)
    assert again.reasoning['calls'] == first.reasoning['calls']
    # Another file's: not a list of texts, or too short; the rest is asked.
    for text, texts in (('<think>x</think>', (ONE, YES)), ('[1]', (ONE, YES)),
                        (json.dumps([ONE]), (YES, ))):
        sample, _ = ask(*texts, stored=(text, False))
        assert len(sample.pred_instances) == 1


def test_verdicts_are_not_used_again_for_other_masks(ask):
    _, agent = ask(ONE, YES)
    maker = describe_maker(agent, fp16=False)
    assert maker == describe_maker(ask(ONE, YES)[1], fp16=False)
    for settings in (dict(max_rounds=2), dict(decoder=dict(type='Quarters', score_thr=0.5))):
        assert describe_maker(ask(ONE, YES, **settings)[1], fp16=False) != maker
    agent.decoder.weight.data += 1
    assert describe_maker(agent, fp16=False) != maker


def test_settings_that_are_refused(agent_config):
    for settings, problem in (
            (dict(max_rounds=0), '`max_rounds` should be at least 1, but got 0'),
            (dict(max_instances=0), '`max_instances` should be at least 1'),
            (dict(decoder=dict(type='BoxDecoder')), 'should find the instances of a text.*BoxDec')):
        with pytest.raises(ValueError, match=problem):
            MODELS.build(dict(agent_config.model, **settings))
        config = copy.deepcopy(agent_config)
        config.model.update(settings)
        assert len(check_config(config).problems) == 1
        assert re.search(problem.lstrip('`'), check_config(config).problems[0])
    assert check_config(agent_config).problems == []


def test_a_test_with_tiny_models_reports_the_calls(agent_config, tmp_path):
    """With tiny random weights of SAM 3 and the toy policy, which knows neither prompt."""
    agent_config.model.decoder = dict(
        type='SAM3ConceptDecoder', score_thr=0.0,
        pretrained=make_sam3_folder(tmp_path / 'sam3', video=True))
    agent_config.model.rollout_engine = dict(type='SharedPrefixRollout')
    agent_config.model.test_cfg = dict(temperature=0.0, max_new_tokens=8)
    agent_config.default_hooks.response_cache = dict(type='ResponseCacheHook')
    metrics = Runner.from_cfg(agent_config).test()
    assert metrics['reasonseg/vlm_calls'] == 1 and metrics['reasonseg/sam_calls'] == 0
    assert 0 < metrics['reasonseg/generated_tokens'] < 20  # by the text of 8 tokens at most
    assert metrics['reasonseg/failed_no_mask'] == metrics['reasonseg/n']
    assert 'reasonseg/pointing_accuracy' not in metrics


def test_the_answer_is_streamed_without_its_responses(agent_config):
    agent_config.model.rollout_engine.texts = [TWO, NO, YES]
    with ReasonSegInferencer(agent_config, None, 'cpu') as infer:
        answer, = infer.stream(np.zeros((40, 60, 3), np.uint8), 'what rolls?')
    assert json.loads(answer['response']) == [TWO, NO, YES] and answer['points'] == []
    assert answer['mask'][0, 59] and not answer['mask'][0, 0] and answer['failure'] is None
    assert answer.draw().dtype == np.uint8


def test_a_test_with_scripted_verdicts(agent_config):
    """Every answer has the upper left quarter of its image."""
    agent_config.test_dataloader.batch_size = 2
    runner = Runner.from_cfg(agent_config)
    count = len(runner.test_dataloader.dataset)
    runner.model.rollout_engine.texts = [ONE, YES] * count
    metrics = runner.test()
    assert metrics['reasonseg/vlm_calls'] == 2 and metrics['reasonseg/sam_calls'] == 1
    assert metrics['reasonseg/parse_failure_rate'] == 0 and metrics['reasonseg/n'] == count
