# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Complete runs whose policy outputs NaN or infinity: they end, and say why."""
import pytest
import torch
from mmengine.runner import Runner

from mmdpad.models.non_finite import NonFiniteError

LAYER = 'model.language_model.layers.1.mlp.down_proj'


def spoil(policy, value=float('nan')):
    policy.model.get_submodule(LAYER).weight.data[0, 0] = value


def test_grpo_ends_with_the_prompt(tiny_config):
    runner = Runner.from_cfg(tiny_config)
    spoil(runner.model.policy)
    with pytest.raises(NonFiniteError, match=f'`{LAYER}` .* The prompt: question .*img_path .*jpg'):
        runner.train()


def test_a_supervised_training_ends_before_the_weights_are_nan(tiny_sft_config):
    runner = Runner.from_cfg(tiny_sft_config)
    spoil(runner.model.policy)
    with pytest.raises(NonFiniteError, match=r'SFT target for prompt 0 of the batch .*'
                                             f'`{LAYER}` .* The prompt: question'):
        runner.train()
    weights = runner.model.policy.state_dict()
    assert [name for name, value in weights.items() if not value.isfinite().all()] == [
        f'model.{LAYER}.weight']


def test_a_sample_of_a_supervised_batch_is_named(tiny_sft_config):
    runner = Runner.from_cfg(tiny_sft_config)
    model = runner.model
    loader = runner.build_dataloader(tiny_sft_config.train_dataloader)
    data = model.data_preprocessor(next(iter(loader)), True)
    prompts = model.policy.encode_prompts(data['inputs']['model_image'],
                                          [one.question for one in data['data_samples']])
    prompts[1].pixel_values = prompts[1].pixel_values * torch.inf
    with pytest.raises(NonFiniteError, match='prompt 1 .*visual.* The prompt: .*' + repr(
            data['data_samples'][1].question)):
        model.loss(dict(data['inputs'], prompt=prompts), data['data_samples'])


def test_steps_that_are_skipped_in_the_end_say_which_layer(tiny_config):
    """The rollout was sound, and the pass of the update is not."""
    tiny_config.train_cfg.update(max_iters=4, max_skipped_steps=0)
    runner = Runner.from_cfg(tiny_config)
    finish = runner.model.finish_rollout

    def finish_and_spoil(started):
        found = finish(started)
        if runner.iter == 1:
            spoil(runner.model.policy)
        return found

    runner.model.finish_rollout = finish_and_spoil
    with pytest.raises(NonFiniteError, match=(
            f'gradients of 1 steps in a row .*`{LAYER}` .*{LAYER}.weight.* The prompt: question '
            f'.*CHECKPOINT with one from before iteration 2 and a lower')):
        runner.train()


@pytest.mark.promise('Training', 'Logits that are NaN or infinite',
                     'an error that names the first such layer, the prompt and what to do; the '
                     'exit status is not 0')
def test_the_command_test_ends_with_one_line_and_another_status(tiny_config, run_here, tmp_path,
                                                                tried):
    tiny_config.model.rollout_engine = dict(type='SharedPrefixRollout')
    start = Runner.from_cfg(tiny_config)
    spoil(start.model.policy)
    torch.save(dict(state_dict=start.model.state_dict()), tmp_path / 'nan.pth')
    tiny_config.dump(tmp_path / 'config.py')
    result = run_here('tools/test.py', tmp_path / 'config.py', tmp_path / 'nan.pth', '--work-dir',
                      tmp_path / 'test', '--out', tmp_path / 'out.json')
    assert result.returncode == 1 and not (tmp_path / 'out.json').exists()
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith('The logits of token 1') and f'{LAYER}.weight' in line
    tried('tools/test.py of such a checkpoint')
