# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The warm-up by mmengine's own loop, and GRPO from its checkpoint."""
from pathlib import Path

import pytest
from mmengine.runner import Runner

from mmdpad.datasets import DatasetError


@pytest.mark.parametrize('lora', [None, dict(r=4)], ids=['full', 'lora'])
def test_grpo_starts_from_the_supervised_checkpoint(tiny_sft_config, tiny_config, lora):
    tiny_config.model.policy.lora = tiny_sft_config.model.policy.lora = lora
    supervised = Runner.from_cfg(tiny_sft_config)
    start = {k: v.clone() for k, v in supervised.model.state_dict().items()}
    supervised.train()
    learned = {k: v.clone() for k, v in supervised.model.state_dict().items()}
    assert any(not learned[k].equal(start[k]) for k in start)
    history = supervised.message_hub.get_scalar('train/loss').data[0]
    assert len(history) == 2 and all(0 < loss < 5 for loss in history)

    tiny_config.load_from = str(Path(supervised.work_dir, 'iter_2.pth'))
    tiny_config.train_cfg.max_iters = 1
    runner = Runner.from_cfg(tiny_config)
    runner.optim_wrapper = dict(tiny_config.optim_wrapper, optimizer=dict(type='SGD', lr=0.0))
    runner.train()
    assert all(v.equal(learned[k]) for k, v in runner.model.state_dict().items())
    # A copy of the loaded policy is the reference; the base under an adapter is another one.
    kl = runner.message_hub.get_scalar('train/kl').current()
    assert kl == 0 if lora is None else kl > 0


def test_data_without_answers_are_named(tiny_sft_config):
    tiny_sft_config.train_dataloader.dataset.split = 'val'
    with pytest.raises(DatasetError, match=r'val_0000\d\.json lacks `think` and `caption`'):
        Runner.from_cfg(tiny_sft_config).train()
