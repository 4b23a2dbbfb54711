# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scenes of tiny objects, and what the start policy that looks closer learns from."""
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdpad.geometry.targets import box_from_mask
from mmdpad.prompts import parse_response
from mmdpad.prompts.zoom import Zoom, read_turn
from mmdpad.structures import ReasoningOutput
from mmdpad.toy.shapes_world import COLORS, make_scene
from mmdpad.toy.zoom_world import GRID, SHRINK, TINY_IMAGE_SIZE, make_tiny_scene, place_card

TOOLS = Path(__file__).parents[2] / 'tools/toy'
MODULES = ('arguments', 'common', 'make_policy', 'muon', 'policy_data', 'policy_eval',
           'policy_files', 'zoom_data')
SCENES = [make_tiny_scene('val', i) for i in range(20)]


def test_equal_numbers_give_equal_scenes_and_others_do_not():
    assert np.array_equal(make_tiny_scene('val', 3).image, SCENES[3].image)
    for other in (SCENES[4], make_tiny_scene('test', 3), make_tiny_scene('val', 3, seed=1)):
        assert (other.image != SCENES[3].image).any()
    with pytest.raises(ValueError, match='`split` should be'):
        make_tiny_scene('all', 0)


def test_objects_are_tiny_and_where_the_outlines_say():
    for number, scene in enumerate(SCENES):
        assert scene.image.shape == (*TINY_IMAGE_SIZE[::-1], 3)
        assert scene.question == make_scene('val', number).question
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            assert min(x2 - x1, y2 - y1) >= 8 and max(x2 - x1, y2 - y1) <= 20
            x, y = np.rint(item.polygon.mean(0)).astype(int)
            assert np.abs(scene.image[y, x] - np.array(COLORS[item.color])).max() < 20


def test_a_card_is_a_small_plain_scene_on_the_pixels_of_the_model_image():
    for index in range(6):
        plain = make_scene('val', index)
        scene, card = place_card(np.random.default_rng(index), plain)
        assert all(value % GRID == 0 for value in card)
        x1, y1, x2, y2 = card
        height, width = plain.image.shape[:2]
        assert -0.5 <= x2 - x1 - SHRINK * width < GRID
        assert -0.5 <= y2 - y1 - SHRINK * height < GRID
        # As crops show it, with the frame of the plain scene: places are those of that scene.
        shown, before = (cv2.resize(image, (112, 112), interpolation=cv2.INTER_AREA)
                         for image in (scene.image[y1:y2, x1:x2], plain.image))
        assert np.corrcoef(shown.ravel(), before.ravel())[0, 1] > 0.75
        for small, large in zip(scene.objects, plain.objects, strict=True):
            moved = (np.array(small.center) - card[:2]) / (x2 - x1, y2 - y1)
            assert np.abs(moved - np.array(large.center) / (width, height)).max() < 0.06
        around = scene.image[y1 - 8:y1 - 4, x1:x2]
        assert np.median(scene.image[y1:y2, x1:x2]) - np.median(around) > 15


@pytest.fixture
def tools(monkeypatch):
    """The modules `zoom_data` and `policy_data`, and a processor for them."""
    others = {name: sys.modules.pop(name, None) for name in MODULES}
    monkeypatch.syspath_prepend(str(TOOLS))
    import policy_data
    import zoom_data
    from policy_files import make_processor
    yield zoom_data, policy_data, make_processor(zoom=True)
    for name, module in others.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_conversations_are_learned_but_for_their_replies(tools):
    zoom_data, policy_data, processor = tools
    maker = zoom_data.ZoomRowMaker(processor, 0)
    rows = [maker() for _ in range(12)]
    asked_at_once = len(zoom_data.ANSWERS)
    endings = {False: 0, True: 0}
    for row in rows:
        assert len(row.crops) == zoom_data.CONVERSATIONS == len(row.tokens) - asked_at_once
        for number, (tokens, asked, skipped) in enumerate(
                zip(row.tokens, row.asked, row.skipped, strict=True)):
            first, last = (processor.tokenizer.decode(part, skip_special_tokens=True)
                           for part in (tokens[asked:skipped.start or len(tokens)],
                                        tokens[skipped.stop:]))
            talks = number >= asked_at_once
            assert isinstance(read_turn(first), Zoom if talks else type(None))
            if not talks:
                assert isinstance(parse_response(first), ReasoningOutput)
                continue
            reply = [tokens[i] for i in skipped]
            pads = reply.count(processor.tokenizer.convert_tokens_to_ids('<|image_pad|>'))
            assert pads == 49
            learned = skipped.stop < len(tokens)
            endings[learned] += 1
            if learned:
                assert isinstance(parse_response(last), ReasoningOutput)
    assert endings[True] > endings[False] > 0  # calls that miss the card teach no answer
    batch = policy_data.collate(rows[:2])
    assert batch['crops'].shape == (2 * zoom_data.CONVERSATIONS, 112, 112, 3)
    assert batch['grid'].shape == (2 * zoom_data.CONVERSATIONS, 49, 8)
    images = batch['tokens'] == processor.tokenizer.convert_tokens_to_ids('<|image_pad|>')
    assert not (batch['learn'] & images).any()
    row = batch['learn'][asked_at_once]
    part = rows[0].skipped[asked_at_once]
    assert row[part.start - 1] and not row[part.start:part.stop].any()


def test_targets_in_the_card_are_those_of_the_whole_image(tools):
    zoom_data, *_ = tools
    scene, card = place_card(np.random.default_rng(5), make_scene('val', 5))
    for item, (box, points) in zip(scene.objects, zoom_data.tiny_targets(scene, card), strict=True):
        mask = zoom_data.object_mask(item.polygon, *scene.image.shape[:2])
        assert box == box_from_mask(mask).tolist()
        assert all(mask[y, x] for x, y in np.array(points, int))


def test_places_of_tokens_are_those_of_transformers(tools):
    from make_policy import find_places
    from policy_files import make_config
    from transformers import Qwen2_5_VLForConditionalGeneration
    processor = tools[2]
    config = make_config(processor.tokenizer)
    with torch.device('meta'):
        model = Qwen2_5_VLForConditionalGeneration(config)
    ids = torch.tensor([[5, 6, *[config.image_token_id] * 49, 7, 8], [5] * 53])
    images = ids == config.image_token_id
    grid = torch.tensor([[1, 14, 14]])
    wanted, _ = model.model.get_rope_index(ids, images.int(), image_grid_thw=grid)
    assert torch.equal(find_places(images), wanted)
