# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluates a policy that looks closer on held-out scenes of tiny objects."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import object_mask, to_model_image
from zoom_data import ZOOM_LIMITS, is_seen

from mmdpad.geometry.boxes import box_iou
from mmdpad.geometry.targets import box_from_mask
from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.rollouts import ConversationSampler, SharedPrefixRollout
from mmdpad.prompts import parse_response
from mmdpad.structures import ReasoningOutput
from mmdpad.toy.shapes_world import SHAPES_PROMPT_TEMPLATE
from mmdpad.toy.zoom_world import ZOOM_PROMPT_TEMPLATE, make_tiny_scene

MODES = dict(greedy=0.0, sampled=1.0)
"""Temperatures."""
TEMPLATES = dict(find=SHAPES_PROMPT_TEMPLATE, look=ZOOM_PROMPT_TEMPLATE)


def evaluate(folder: Path, count: int = 192) -> dict[str, float]:
    """Measure answers at once and of up to two turns, on `count` scenes of the split `val`.

    Returns:
        `<mode>_<template>_<quantity>` -> mean; boxes are compared in the original frame.
    """
    scenes = [make_tiny_scene('val', i) for i in range(count)]
    head = VLMReasoningHead(pretrained=str(folder), prompt_template=SHAPES_PROMPT_TEMPLATE,
                            gradient_checkpointing=False).eval()
    model_images = [torch.from_numpy(to_model_image(scene.image)).permute(2, 0, 1)
                    for scene in scenes]
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]
    shapes = [tuple(image.shape[-2:]) for image in model_images]
    sampler = ConversationSampler(SharedPrefixRollout(), head, limits=ZOOM_LIMITS)
    found = {}
    for name, template in TEMPLATES.items():
        encode = head.encoder.with_template(template)
        prompts = [encode(image, scene.question.text)
                   for image, scene in zip(model_images, scenes, strict=True)]
        for mode, temperature in MODES.items():
            _, talks = sampler(prompts, images, shapes, max_new_tokens=64, temperature=temperature)
            found |= {f'{mode}_{name}_{key}': round(float(np.mean(values)), 3)
                      for key, values in measure(scenes, talks).items()}
    return found


def measure(scenes, talks) -> dict[str, list[float]]:
    """Quantities of each conversation."""
    rows = []
    for scene, talk in zip(scenes, talks, strict=True):
        mask = object_mask(scene.target.polygon, *scene.image.shape[:2])
        target = box_from_mask(mask).tolist()
        answer = parse_response(talk.texts[-1])
        usable = isinstance(answer, ReasoningOutput)
        iou = box_iou(talk.crops[-1].to_original(answer.box, 'pixels'), target) if usable else 0.0
        zoomed = len(talk.crops) > 1
        rows.append(dict(
            zoomed=zoomed, target_seen=zoomed and is_seen(target, talk.crops[-1]), usable=usable,
            named=scene.target.name in (answer.think or ''), box_iou=iou, iou_above_half=iou > 0.5))
    return {key: [row[key] for row in rows] for key in rows[0]}
