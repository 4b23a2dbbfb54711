# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The shipped toy models load with their own libraries and do what they are for.

Bounds are generous; the measured quality is in mmdpad/toy/weights/README.md.
"""
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor, sam_model_registry
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from mmdpad.prompts import build_messages, follows_template, parse_response
from mmdpad.structures import ReasoningOutput
from mmdpad.toy import CLIP_WEIGHTS, POLICY_WEIGHTS, SAM_WEIGHTS, WEIGHTS_DIR
from mmdpad.toy.sam import SHAPES_SAM_NAME, build_sam_shapes
from mmdpad.toy.shapes_world import SHAPES_IMAGE_SIZE, SHAPES_PROMPT_TEMPLATE, make_scene

SCENES = [make_scene('val', 1000 + i) for i in range(16)]


def model_image(scene) -> Image.Image:
    return Image.fromarray(scene.image).resize(SHAPES_IMAGE_SIZE, Image.Resampling.BILINEAR)


def prompt_box(scene) -> np.ndarray:
    height, width = scene.image.shape[:2]
    return np.array(scene.target.box) * np.array([112 / width, 112 / height] * 2)


@pytest.mark.parametrize('folder, limit', [
    (WEIGHTS_DIR, 15_000_000), (Path(__file__).parents[2] / 'configs/study/weights', 7_000_000)])
def test_all_weights_together_stay_small(folder, limit):
    assert 0 < sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) < limit


@pytest.fixture(scope='module')
def processor():
    return AutoProcessor.from_pretrained(POLICY_WEIGHTS)


def test_tokenizer_has_one_token_per_integer_and_spells_the_unknown(processor):
    tokenizer = processor.tokenizer
    ids = [tokenizer(str(number), add_special_tokens=False).input_ids for number in range(113)]
    assert all(len(tokens) == 1 for tokens in ids)
    assert len({tokens[0] for tokens in ids}) == 113
    for text in ('Zürich, 840 x "été"\n日本 {"bbox": [1, 2', '', '<think>', '  two  blanks '):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    for token in ('<|im_start|>', '<|im_end|>', '<|image_pad|>', '<|vision_start|>'):
        assert len(tokenizer(token).input_ids) == 1


def answer_greedily(folder, processor) -> list[str]:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager').eval()
    chats = [processor.apply_chat_template(
        build_messages(scene.question.text, SHAPES_PROMPT_TEMPLATE), add_generation_prompt=True,
        tokenize=False) for scene in SCENES]
    inputs = processor(text=chats, images=[model_image(scene) for scene in SCENES],
                       padding=True, return_tensors='pt')
    assert inputs['image_grid_thw'].tolist() == [[1, 14, 14]] * len(SCENES)
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=110)
    return processor.batch_decode(out[:, inputs['input_ids'].shape[1]:], skip_special_tokens=True)


def test_policy_answers_in_form_and_often_rightly(processor):
    texts = answer_greedily(POLICY_WEIGHTS, processor)
    assert np.mean([follows_template(text) for text in texts]) >= 0.9
    hits = 0
    for scene, text in zip(SCENES, texts, strict=True):
        parsed = parse_response(text)
        if isinstance(parsed, ReasoningOutput):
            x, y = np.reshape(parsed.box, (2, 2)).mean(0)
            x1, y1, x2, y2 = prompt_box(scene)
            hits += x1 < x < x2 and y1 < y < y2
    # A box in the middle of the image, or on an object at random, is right far less often.
    assert hits >= len(SCENES) * 0.5


def test_the_start_policy_of_the_demo_lacks_tight_boxes_and_nothing_else(processor):
    growth, named = [], 0
    for scene, text in zip(SCENES, answer_greedily(WEIGHTS_DIR / 'loose_boxes', processor),
                           strict=True):
        parsed = parse_response(text)
        named += scene.target.name in parsed.think.split('it is')[-1]
        if not isinstance(parsed, ReasoningOutput):
            continue
        sides, true = (np.ptp(np.reshape(box, (2, 2)), axis=0)
                       for box in (parsed.box, prompt_box(scene)))
        growth += (sides / true).tolist()
    assert named >= len(SCENES) * 0.5 and len(growth) >= 2 * len(SCENES) * 0.9
    assert np.median(growth) > 1.7


def test_clip_prefers_the_crop_for_true_descriptions_only():
    model, _, preprocess = open_clip.create_model_and_transforms(CLIP_WEIGHTS)
    tokenizer = open_clip.get_tokenizer(CLIP_WEIGHTS)
    model.eval()
    wins = dict(specific=[], generic=[], other=[])
    with torch.no_grad():
        for scene in SCENES:
            image = model_image(scene)
            crop = image.crop(tuple(np.round(prompt_box(scene)).astype(int).tolist()))
            pair = model.encode_image(torch.stack([preprocess(crop), preprocess(image)]),
                                      normalize=True)
            for kind, texts in scene.captions().items():
                scores = pair @ model.encode_text(tokenizer(list(texts)), normalize=True).t()
                wins[kind] += (scores[0] > scores[1]).tolist()
    assert np.mean(wins['specific']) > 0.9
    assert np.mean(wins['generic']) < 0.1
    assert np.mean(wins['other']) < 0.3


def test_sam_is_registered_and_segments():
    assert sam_model_registry[SHAPES_SAM_NAME] is build_sam_shapes
    predictor = SamPredictor(sam_model_registry[SHAPES_SAM_NAME](SAM_WEIGHTS))
    ious = []
    for scene in SCENES:
        height, width = scene.image.shape[:2]
        mask = build_mask(scene.target.polygon, height, width)
        predictor.set_image(scene.image)
        found, scores, _ = predictor.predict(
            point_coords=np.array([scene.target.center]), point_labels=np.ones(1),
            box=np.array(scene.target.box))
        best = found[scores.argmax()]
        ious.append((best & mask).sum() / (best | mask).sum())
    assert np.mean(ious) > 0.85


def build_mask(polygon, height: int, width: int) -> np.ndarray:
    """Mask of a polygon by Pillow, to have another witness than the training's own drawing."""
    from PIL import ImageDraw
    mask = Image.new('1', (width, height))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in polygon.tolist()], fill=1, outline=1)
    return np.array(mask)
