# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Models that are never trained, measured on the toy SAM."""
import json

import pytest
import torch
from mmengine.runner import Runner
from scripted_rollout import Scripted
from segment_anything import sam_model_registry
from torch.utils.flop_counter import FlopCounterMode

from mmdpad.models.cost.fake_policy import ImageInputs
from mmdpad.models.cost.workload import Workload
from mmdpad.preflight.cost import read_config_cost
from mmdpad.preflight.cost.frozen import sam_cost, sam_encodings
from mmdpad.registry import MODELS
from mmdpad.rewards import MaskReward

TEXT = json.dumps(dict(bbox=[28, 42, 84, 98], points_1=[56, 84], points_2=[60, 90]))
MASK = f'<think>t</think><mask>{TEXT}</mask>'
ANSWER = f'<think>t</think><answer>{TEXT}</answer><caption>a cup</caption>'
ZOOMS = [f'<think>t</think><zoom>[0, 0, {side}, {side}]</zoom>' for side in (56, 63, 70, 77)]


def test_an_image_costs_what_torch_counts():
    encoder = sam_model_registry['vit_shapes']().image_encoder
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 3, 112, 112))
    assert sam_cost(dict(model='vit_shapes'), 3).flops == pytest.approx(
        3 * counter.get_total_flops(), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize('in_crop, kept, encoded', [
    (False, 16, 2), (False, 1, 2 * 4), (True, 16, 4), (True, 1, 4 * 3)])
def test_images_are_encoded_as_often_as_estimated(tiny_config, in_crop, kept, encoded):
    """Two prompts with two conversations each, whose first three turns ask for a mask, the very
    first one for a crop if masks are decoded there."""
    tiny_config.merge_from_dict({
        'train_cfg.rewards': dict(mask=dict(type='MaskReward')), 'custom_hooks': [],
        'model.policy.prompt_template': 'zoom_and_mask', 'model.decoder.cache_size': kept,
        'model.train_cfg.group_size': 2, 'model.train_cfg.max_new_tokens': 200,
        'model.conversation': dict(max_turns=4, max_tokens=3000, decode_in_crop=in_crop,
                                   limits=dict(min_side=28, size=(112, 112)))})
    model = MODELS.build(tiny_config.model).eval()
    model.conversations.engine = Scripted(ZOOMS if in_crop else [MASK] * 4, *[[MASK] * 4] * 2,
                                          [ANSWER] * 4)
    runs = []
    model.decoder.sam.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    batch = next(iter(Runner.build_dataloader(tiny_config.train_dataloader)))
    rollout = model.rollout(**model.data_preprocessor(batch, False))
    reward = MaskReward()
    reward.prepare(model, [dict(data_samples=batch['data_samples'][0])])
    reward(rollout)
    assert [record.masks for record in rollout.conversations] == [3 - in_crop] * 4
    assert len(runs) == encoded
    cost = read_config_cost(tiny_config)
    assert cost.work.turns == 4
    assert cost.frozen['SAM'] == sam_cost(tiny_config.model.decoder, encoded)


@pytest.mark.parametrize('shown, rewarded, in_crop, encoded', [
    (0, False, False, 0), (0, True, False, 20), (0, False, True, 0), (0, True, True, 80),
    (1, False, False, 20), (1, False, True, 20),  # the mask or the crop
    (1, True, True, 80), (2, True, False, 60), (2, False, True, 80), (2, True, True, 160)])
def test_encodings_by_hand(shown, rewarded, in_crop, encoded):
    """Of 20 prompts with four responses each; embeddings of 16 images are kept."""
    work = Workload(20, 4, 65, 30, ImageInputs((64, 1176), ((1, 8, 8), ), 16))
    assert sam_encodings(work, shown, rewarded, in_crop, kept=16) == encoded
