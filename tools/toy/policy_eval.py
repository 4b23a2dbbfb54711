# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluates a saved policy on held-out scenes with `from_pretrained` and `generate`."""
from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from common import targets_of, to_model_image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from mmdpad.prompts import build_messages, follows_template, parse_response
from mmdpad.structures import ReasoningOutput
from mmdpad.toy.shapes_world import GENERIC_CAPTIONS, SHAPES_PROMPT_TEMPLATE, make_scene


@torch.no_grad()
def answer(model, processor, scenes, greedy: bool, batch_size: int = 64) -> list[str]:
    """Generate one response to each scene's question."""
    texts = []
    banned = [processor.tokenizer.convert_tokens_to_ids(token) for token in
              ('<|image_pad|>', '<|video_pad|>', '<|vision_start|>', '<|vision_end|>')]
    for begin in range(0, len(scenes), batch_size):
        part = scenes[begin:begin + batch_size]
        chats = [processor.apply_chat_template(
            build_messages(scene.question.text, SHAPES_PROMPT_TEMPLATE),
            add_generation_prompt=True, tokenize=False) for scene in part]
        inputs = processor(text=chats, images=[to_model_image(scene.image) for scene in part],
                           padding=True, return_tensors='pt')
        out = model.generate(**inputs, do_sample=not greedy, max_new_tokens=110, top_k=0,
                             suppress_tokens=banned)
        texts += processor.batch_decode(out[:, inputs['input_ids'].shape[1]:],
                                        skip_special_tokens=True)
    return texts


def evaluate(folder, greedy: bool, count: int = 256, split: str = 'val',
             world: str = 'plain') -> dict[str, float]:
    """Measure format, boxes (IoU > 0.5, mean IoU), points and kinds of captions.

    Points count as right if both lie inside the target's box. Keys start with 'greedy' or
    'sampled' (temperature 1, fixed seed).
    """
    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation='eager').eval()
    scenes = [make_scene(split, i, world=world) for i in range(count)]
    texts = answer(model, processor, scenes, greedy)
    ious, inside, kinds, errors, lengths, named = [], [], Counter(), [], [], []
    for scene, text in zip(scenes, texts, strict=True):
        box, _ = targets_of(scene)[scene.question.target]
        parsed = parse_response(text)
        kinds[caption_kind(scene, parsed.caption)] += 1
        named.append(scene.target.name in (parsed.think or '').split('it is')[-1])
        lengths.append(len(processor.tokenizer(parsed.think or '').input_ids))
        usable = isinstance(parsed, ReasoningOutput)
        ious.append(box_iou(parsed.box, box) if usable else 0.0)
        errors.append(float(np.abs(np.subtract(parsed.box, box)).mean()) if usable else 112.0)
        inside.append(usable and all(box[0] <= x <= box[2] and box[1] <= y <= box[3]
                                     for x, y in parsed.points))
    right = np.array(ious) > 0.5
    numbers = dict(form=np.mean([follows_template(text) for text in texts]),
                   iou_above_half=right.mean(), mean_iou=np.mean(ious),
                   corners_within_2px=np.mean(np.array(errors) < 2),
                   corners_within_4px=np.mean(np.array(errors) < 4),
                   target_named=np.mean(named), points_inside=np.mean(inside),
                   reasoning_tokens=np.mean(lengths))
    numbers |= {f'caption_{kind}': kinds[kind] / count
                for kind in ('specific', 'generic', 'other', 'false')}
    asked = np.array([scene.question.kind for scene in scenes])
    for kind in sorted({*asked}):
        chosen = asked == kind
        numbers[f'iou_above_half_{kind}'] = right[chosen].mean()
    name = 'greedy' if greedy else 'sampled'
    return {f'{name}_{key}': round(float(value), 3) for key, value in numbers.items()}


def caption_kind(scene, caption: str | None) -> str:
    """Return 'specific', 'generic', 'other', or 'false' if it describes nothing in the scene."""
    for kind, texts in scene.captions().items():
        if caption in texts:
            return kind
    return 'generic' if caption in GENERIC_CAPTIONS else 'false'


def box_iou(first, second) -> float:
    """Intersection over union of two boxes (XYXY)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return overlap / (areas - overlap)
