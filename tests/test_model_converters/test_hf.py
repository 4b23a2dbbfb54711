# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A trained policy to a folder, read by plain transformers and peft, and back."""
import copy
import json
from pathlib import Path

import pytest
import torch
from chat_templates import policy_folder
from mmengine.runner import Runner
from safetensors import safe_open
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from mmdpad.models import VLMReasoningHead, hf_folder
from mmdpad.prompts import build_messages
from mmdpad.registry import MODELS
from mmdpad.toy import POLICY_WEIGHTS
from mmdpad.toy.policy_folder import make_policy_folder

TO_HF, FROM_HF = (f'tools/model_converters/{way}_hf.py' for way in ('to', 'from'))


def trained(config, tmp_path, **changes):
    """One step, large enough to change answers; the config's file and the checkpoint."""
    config.merge_from_dict({'train_cfg.max_iters': 1, 'optim_wrapper.optimizer.lr': 1e-3,
                            **changes})
    (tmp_path / 'config').mkdir()
    config.dump(tmp_path / 'config' / 'config.py')
    Runner.from_cfg(copy.deepcopy(config)).train()
    return tmp_path / 'config' / 'config.py', Path(config.work_dir, 'iter_1.pth')


@pytest.fixture
def whole(tiny_sft_config, tmp_path):
    return trained(tiny_sft_config, tmp_path)


@pytest.fixture
def adapter(tiny_sft_config, tmp_path):
    return trained(tiny_sft_config, tmp_path, **{
        'model.policy.lora': dict(r=4, lora_alpha=8), 'optim_wrapper.optimizer.lr': 3e-2})


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def keys_and_types(folder):
    with safe_open(Path(folder, 'model.safetensors'), 'pt') as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


def published_keys():
    """Those of the start policy, whose file has the tied head twice."""
    return keys_and_types(POLICY_WEIGHTS).keys() - {'lm_head.weight'}


def our_answers(config, checkpoint, batch):
    model = MODELS.build(config.model).eval()
    model.load_state_dict(weights(checkpoint))
    with torch.no_grad():
        return [s.reasoning['response'] for s in model.test_step(copy.deepcopy(batch))]


def their_answers(model, folder, batch):
    """As the published scripts ask: chat template, processor, generate."""
    processor, answers = AutoProcessor.from_pretrained(folder), []
    for image, sample in zip(batch['inputs']['model_image'], batch['data_samples'], strict=True):
        text = processor.apply_chat_template(build_messages(sample.question, 'find "{question}"'),
                                             tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[image], return_tensors='pt')
        ids = model.eval().generate(**inputs, max_new_tokens=112, do_sample=False)
        answers += processor.batch_decode(ids[:, inputs['input_ids'].shape[1]:],
                                          skip_special_tokens=True)
    return answers


def load_theirs(folder):
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)


@pytest.fixture
def batch(tiny_config):
    return next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=3))))


def test_a_full_policy_there_and_back(run_here, whole, tiny_sft_config, batch, tmp_path):
    config, checkpoint = whole
    folder, back = tmp_path / 'folder', tmp_path / 'back.pth'
    assert run_here(TO_HF, config, checkpoint, folder).returncode == 0
    made = keys_and_types(folder)
    assert made.keys() == published_keys() and set(made.values()) == {'F32'}
    for path in Path(POLICY_WEIGHTS).iterdir():
        if path.name not in ('config.json', 'model.safetensors', 'README.md'):
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    about = json.loads((folder / 'mmdpad.json').read_text())
    assert about['iter'] == 1 and about['checkpoint'] == 'iter_1.pth' and about['lora'] is None

    ours = our_answers(tiny_sft_config, checkpoint, batch)
    assert ours != their_answers(load_theirs(POLICY_WEIGHTS), POLICY_WEIGHTS, batch)
    assert ours == their_answers(load_theirs(folder), folder, batch)

    assert run_here(FROM_HF, folder, back).returncode == 0
    expected, found = weights(checkpoint), weights(back)
    assert expected.keys() == found.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())


def test_other_programs_stop_where_training_did(run_here, tiny_sft_config, batch, tmp_path):
    """Also where the start policy's generation config does not name that end."""
    tiny_sft_config.model.policy.pretrained = policy_folder(
        tmp_path / 'start', generation_config=dict(eos_token_id=504, top_k=1))
    config, checkpoint = trained(tiny_sft_config, tmp_path)
    assert run_here(TO_HF, config, checkpoint, tmp_path / 'folder').returncode == 0
    made = json.loads((tmp_path / 'folder/generation_config.json').read_text())
    assert made['eos_token_id'] == [506, 504] and made['top_k'] == 1
    ours = our_answers(tiny_sft_config, checkpoint, batch)
    assert ours == their_answers(load_theirs(tmp_path / 'folder'), tmp_path / 'folder', batch)


@pytest.mark.parametrize('family', ['glm4v', 'glm4v_moe', 'internvl'])
def test_other_families_there_and_back(family, tmp_path):
    """Under the names of the published files, in which each expert has weights of its own; and no
    other program stops at the tag that GLM-4.1V's generation_config.json names."""
    start = make_policy_folder(tmp_path / 'start', family)
    head = VLMReasoningHead(start)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.01)
    state = {f'policy.{name}': value for name, value in head.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'trained.pth')
    folder = tmp_path / 'exported'
    folder.mkdir()
    hf_folder.export_policy(str(tmp_path / 'trained.pth'), dict(pretrained=start), folder)
    assert keys_and_types(folder) == keys_and_types(start)
    # What only vLLM reads of config.json.
    of_attention = dict(glm4v='attention_bias', glm4v_moe='use_qk_norm').get(family)
    texts = [json.loads(Path(path, 'config.json').read_text())['text_config']
             for path in (folder, start)]
    if of_attention:
        assert texts[0][of_attention] is texts[1][of_attention] is (family == 'glm4v')
    assert any('.experts.7.up_proj.' in name for name in keys_and_types(start)) == (
        family == 'glm4v_moe')
    back, settings = hf_folder.import_policy(str(folder))
    assert settings is None and back.keys() == state.keys()
    assert all(back[name].equal(state[name]) for name in state)
    ends, starts = (json.loads(Path(path, 'generation_config.json').read_text())['eos_token_id']
                    for path in (folder, start))
    assert ends == head.end_tokens
    assert {*starts} - {*ends} == {*head.encoder.responses.tag_ends}


def test_an_adapter_there_and_back_and_merged(run_here, adapter, tiny_sft_config, batch, tmp_path):
    import peft
    config, checkpoint = adapter
    folder, merged, back = (tmp_path / name for name in ('folder', 'merged', 'back.pth'))
    assert run_here(TO_HF, config, checkpoint, folder).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        'adapter_config.json', 'adapter_model.safetensors', 'mmdpad.json']
    base = json.loads((folder / 'adapter_config.json').read_text())['base_model_name_or_path']
    assert Path(base).samefile(POLICY_WEIGHTS)

    ours = our_answers(tiny_sft_config, checkpoint, batch)
    theirs = peft.PeftModel.from_pretrained(load_theirs(base).float(), folder)
    assert ours != their_answers(load_theirs(base), base, batch)
    assert ours == their_answers(theirs, base, batch)

    assert run_here(FROM_HF, folder, back).returncode == 0
    expected, found = weights(checkpoint), weights(back)
    assert expected.keys() == found.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())

    assert run_here(TO_HF, config, checkpoint, merged, '--merge-lora').returncode == 0
    assert keys_and_types(merged).keys() == published_keys()
    expected = theirs.merge_and_unload().state_dict()
    found = load_theirs(merged).state_dict()
    assert all(value.equal(found[name]) for name, value in expected.items())


def test_types_and_shards(run_here, whole, monkeypatch, tmp_path):
    config, checkpoint = whole
    assert run_here(TO_HF, config, checkpoint, tmp_path / 'b', '--dtype',
                    'bfloat16').returncode == 0
    assert set(keys_and_types(tmp_path / 'b').values()) == {'BF16'}
    model = load_theirs(tmp_path / 'b')
    assert model.dtype == torch.bfloat16
    expected = weights(checkpoint)
    assert all(value.equal(expected[f'policy.model.{name}'].bfloat16())
               for name, value in model.state_dict().items())

    monkeypatch.setattr(hf_folder, 'SHARD_SIZE', '1MB')
    assert run_here(TO_HF, config, checkpoint, tmp_path / 's').returncode == 0
    index = json.loads((tmp_path / 's' / 'model.safetensors.index.json').read_text())
    assert index['weight_map'].keys() == published_keys()
    assert len(set(index['weight_map'].values())) > 1
    assert all(value.equal(expected[f'policy.model.{name}'])
               for name, value in load_theirs(tmp_path / 's').state_dict().items())


def test_what_cannot_be_done_is_reported_and_leaves_nothing(run_here, whole, tmp_path):
    config, checkpoint = whole
    out = tmp_path / 'out'
    lora = ['--cfg-options', 'model.policy.lora.r=4']
    for arguments, message in (
            ([config, checkpoint, out, '--merge-lora'], 'this one has none; leave it out'),
            ([config, checkpoint, out, *lora], r'81 unexpected'),
            ([config, 'none.pth', out], "checkpoint 'none.pth' does not exist"),
            ([config, checkpoint, out, '--cfg-options', 'model.policy.pretrained=./none'],
             'none'),
            ([config, checkpoint, tmp_path / 'config'], 'already exists')):
        result = run_here(TO_HF, *arguments)
        assert result.returncode == 1 and message in result.stderr
    for folder, message in (('none/at/all', "'none/at/all'"), (tmp_path / 'config', 'config.json')):
        result = run_here(FROM_HF, folder, tmp_path / 'back.pth')
        assert result.returncode == 1 and message in result.stderr
    assert not out.exists() and not list(tmp_path.glob('back.pth*')) and not list(
        tmp_path.glob('.*'))
