# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training, testing and asking a policy whose folder opens and ends responses in its own way."""
import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from chat_templates import OPENED, TEXT_ONLY, chat, policy_folder
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmdpad.apis import ReasonSegInferencer
from mmdpad.models import VLMReasoningHead
from mmdpad.preflight import dry_run
from mmdpad.prompts import format_response
from mmdpad.utils import read_jsonl

OPENS = OPENED['a thinking model'][0]
RESPONSE = format_response('it is red.', (1, 2, 30, 40), ((5, 6), (7, 8)), 'a star')


@pytest.fixture
def folder(tmp_path):
    return policy_folder(tmp_path / 'policy', OPENS)


def train(config):
    """Log lines and rollouts of a finished run."""
    runner = Runner.from_cfg(config)
    runner.train()
    log = Path(runner.log_dir)
    return ([json.loads(line) for line in (log / 'vis_data/scalars.json').read_text().splitlines()],
            list(read_jsonl(str(log / 'rollouts.jsonl'))) if 'rewards' in config.train_cfg else [])


@pytest.mark.parametrize('kind', ['a thinking model', 'a tag without a line break'])
def test_a_template_that_opens_the_reasoning_earns_the_format(kind, tiny_config, tmp_path):
    """Its responses are read, rewarded, counted and kept as those of an instruct model."""
    template, opened = OPENED[kind]
    tiny_config.model.policy.pretrained = policy_folder(tmp_path / 'policy', template)
    tiny_config.train_cfg.max_iters = 1
    (line, ), rollouts = train(tiny_config)
    assert line['reward/thinking_format'] > 0.5 and line['empty_think'] < 0.5
    assert line['reasoning_tokens'] > 5
    assert all(row['response'].startswith(opened) for row in rollouts)
    if opened == '<think>':  # after a line break, which is new to it, the toy model repeats it
        assert all(row['response'].count('<think>') == 1 for row in rollouts
                   if row['rewards']['thinking_format'])


def test_a_pad_token_as_the_only_named_end_cuts_no_response(tiny_config, tmp_path):
    """The end that the tokenizer names, and the chat template writes, ends responses as before."""
    tiny_config.train_cfg.max_iters = 1
    (expected, ), same = train(copy.deepcopy(tiny_config))
    tiny_config.experiment_name += '_other'
    tiny_config.model.policy.pretrained = policy_folder(
        tmp_path / 'policy', generation_config=dict(eos_token_id=504))
    (line, ), rollouts = train(tiny_config)
    assert line['truncated'] == expected['truncated'] < 0.5
    assert [row['response'] for row in rollouts] == [row['response'] for row in same]


def test_supervised_training_teaches_the_tokens_of_the_rendered_conversation(folder):
    """The loss is that of a plain forward over them, and nothing that the template opened is
    taught."""
    head = VLMReasoningHead(folder, prompt_template='find "{question}"')
    image = torch.full((3, 112, 112), 90, dtype=torch.uint8)
    (prompt, ) = head.encode_prompts([image], ['a star'])
    text, tokenizer = head.encoder.write('a star'), head.processor.tokenizer
    whole = tokenizer(text + RESPONSE.removeprefix('<think>') + '<|im_end|>')['input_ids']
    start = len(tokenizer(text)['input_ids'])
    assert tokenizer.decode(whole[:start]) == text
    ids = torch.tensor(whole[start:])
    full = torch.cat([prompt.input_ids, ids])[None]
    logits = head.model(
        input_ids=full, attention_mask=torch.ones_like(full),
        mm_token_type_ids=torch.cat([prompt.token_types, torch.zeros_like(ids).int()])[None],
        pixel_values=prompt.pixel_values, image_grid_thw=prompt.grid).logits[0, -len(ids) - 1:-1]
    logits[:, head.vision_token_ids] = -torch.inf
    loss, scalars = head.supervised_loss([prompt], [RESPONSE])
    assert scalars['response_tokens'] == len(ids)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, ids), rtol=1e-4,
                               atol=1e-5)
    plain = VLMReasoningHead(folder, prompt_template='find "{question}"')
    plain.encoder.responses.opened = ''
    assert plain.supervised_loss([prompt], [RESPONSE])[1]['response_tokens'] == len(ids) + 1


def test_supervised_training_from_such_a_folder(tiny_sft_config, folder):
    tiny_sft_config.model.policy.pretrained = folder
    lines, _ = train(tiny_sft_config)
    assert len(lines) == 2 and all(0 < line['loss'] < 5 for line in lines)


def test_an_answer_and_its_stream_hold_what_was_opened(tmp_path, shapes_data):
    folder = policy_folder(tmp_path / 'policy', chat('<think>'))
    config = Config.fromfile('configs/dpad/tiny_shapes.py')
    config.model.policy.pretrained = folder
    infer = ReasonSegInferencer(config, device='cpu')
    image = str(sorted((shapes_data / 'test').glob('*.jpg'))[0])
    answer, = infer(image, 'the red circle')
    assert answer['response'].startswith('<think>')
    assert answer['reasoning'] and '<think>' not in answer['reasoning']
    *texts, last = infer.stream(image, 'the red circle')
    assert texts[0].startswith('<think>') and answer['response'].startswith(texts[-1])
    assert last['response'] == answer['response'] and last['reasoning'] == answer['reasoning']
    batch = infer.model.data_preprocessor(pseudo_collate([infer.pipeline(
        dict(img_path=image, question='the red circle', texts=['the red circle'], img_id=0))]),
        False)
    assert infer.model(**batch, mode='tensor') == [answer['response']]


@pytest.mark.parametrize('change', ['template', 'ends'])
def test_stored_answers_of_another_template_are_not_taken(change, tiny_config, folder, tmp_path):
    def run(resume):
        config = copy.deepcopy(tiny_config)
        config.experiment_name += str(resume)
        config.default_hooks.response_cache = dict(type='ResponseCacheHook', resume=resume)
        runner = Runner.from_cfg(config)
        runner.test()
        return list(read_jsonl(str(Path(runner.log_dir, 'answers.jsonl'))))

    tiny_config.model.policy.pretrained = folder
    maker, *answers = run(resume=False)
    assert answers and all(row['response'].startswith('<think>\n') for row in answers)
    assert maker['end_tokens'] == [506] and len(maker['chat_template']) == 16
    assert run(resume=True)[1:] == []  # all were taken over
    if change == 'template':
        Path(folder, 'chat_template.jinja').write_text(chat())
    else:
        Path(folder, 'generation_config.json').write_text('{"eos_token_id": 504}')
    name = dict(template='chat_template', ends='end_tokens')[change]
    with pytest.raises(ValueError, match=f'differs in `{name}`'):
        run(resume=True)


@pytest.fixture
def dry(tiny_config, tiny_sft_config):
    """Problems and notes of a config with some folder."""
    def dry(path, supervised=False):
        config = tiny_sft_config if supervised else tiny_config
        config.model.policy.pretrained = path
        return dry_run(config)
    return dry


@pytest.mark.parametrize('supervised', [False, True], ids=['grpo', 'supervised'])
@pytest.mark.parametrize('kind', OPENED)
def test_a_dry_run_says_what_is_opened(kind, supervised, dry, tmp_path):
    template, opened = OPENED[kind]
    problems, notes = dry(policy_folder(tmp_path / 'policy', template), supervised)
    (note, ) = [note for note in notes if note.startswith('model.policy: the chat template ')]
    assert (f'opens {opened!r}, which counts as part of each response' in note) == bool(opened)
    assert ('non-thinking mode' in note) == ('that is closed' in kind or 'turned off' in kind)
    assert 'a response ends with <|im_end|> (506: ' in note
    # Responses that begin with <think> cannot be taught after an answer, or after other words.
    wrong = supervised and opened.rstrip() not in ('', '<think>')
    assert [('A response should begin with' in problem) for problem in problems] == [True] * wrong


@pytest.mark.parametrize('fault', TEXT_ONLY)
def test_a_dry_run_refuses_a_template_for_text(fault, dry, tmp_path):
    path = policy_folder(tmp_path / 'policy', TEXT_ONLY[fault])
    (problem, ), notes = dry(path)
    with pytest.raises(ValueError) as error:
        VLMReasoningHead(path)
    assert problem == f'`model.policy`: {error.value}' and '(chat_template.jinja)' in problem
    assert not any(note.startswith('model.policy') for note in notes)


def test_a_dry_run_names_ends_and_where_they_are_from(dry, tmp_path):
    problems, notes = dry(policy_folder(tmp_path / 'policy',
                                        generation_config=dict(eos_token_id=504)))
    assert problems == []
    assert any(note.endswith(
        'a response ends with <|im_end|> (506: the chat template, the tokenizer, config.json) or '
        '<|endoftext|> (504: generation_config.json), of which supervised training uses the '
        'first') for note in notes)
    (problem, ), _ = dry(policy_folder(tmp_path / 'other', config=dict(eos_token_id=9999)))
    assert '`eos_token_id` of config.json in' in problem and 'got 9999' in problem


def test_a_dry_run_reads_given_responses(dry, folder, tiny_sft_config, shapes_data, tmp_path):
    """Those that are whole texts, too."""
    root = Path(shutil.copytree(shapes_data, tmp_path / 'data'))
    tiny_sft_config.train_dataloader.dataset.data_root = str(root)
    assert dry(folder, supervised=True)[0] == []
    path = sorted((root / 'train').glob('*.json'))[-1]
    path.write_text(json.dumps(dict(json.loads(path.read_text()), response='<answer></answer>')))
    (problem, ), _ = dry(folder, supervised=True)
    assert problem.startswith("`train_dataloader`: A response should begin with '<think>'")
    assert "got '<answer></answer>'" in problem
