# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How many tokens prompts and conversations of a config have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Workload
from mmdpad.models.heads.families import FAMILIES
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.segmentors.settings import conversation_limits, conversation_settings
from mmdpad.models.sources import find_folder
from mmdpad.prompts import build_messages
from mmdpad.prompts.zoom import offers_masks, reply_text
from mmdpad.tasks import templates_of_model

QUESTION = 'the object that somebody who is tired could sit down on'


def count_text(model: Mapping[str, Any], model_type: str) -> tuple[int, str]:
    """Tokens of a prompt without its image, by the longest template of a task, and a note on how
    they were counted.

    Args:
        model: The model of a config.
        model_type: Of its policy.
    """
    encoder = _find_encoder(model, model_type)
    templates = templates_of_model(model)
    if encoder is None:
        length = max(len(build_messages(QUESTION, template, _coordinates(model, model_type))[0][
            'content'][1]['text']) for template in templates.values())
        return _assumed(length), '(assumed: 20, and one per 4 characters; no tokenizer)'
    ids = encoder.processor.tokenizer([encoder.write(QUESTION, task) for task in templates])
    count = max(map(len, ids['input_ids'])) - 1  # one token is the image placeholder
    return count, f'(counted with the question {QUESTION!r})'


def converse(work: Workload, model: Mapping[str, Any], shape: PolicyShape,
             max_new_tokens: int) -> tuple[Workload, list[str]]:
    """Make a workload one of conversations that are as long as they can be, of the most turns and
    with the largest crops, if a model has conversations.

    Args:
        work: The workload, with responses of the length of one turn.
        model: The model of a config.
        shape: Sizes of the policy.
        max_new_tokens: Limit of a turn's length.

    Returns:
        The workload, and notes on what is assumed.
    """
    given = conversation_settings(model)
    if given is None:
        return work, []
    tokens, limits = given['max_tokens'], given['limits']
    side = math.isqrt(limits.max_pixels)
    width, height = limits.size or (side, side)
    shown, told = [shape.image(height, width)], reply_text((height, width), 1)
    if shows_masks(model):
        shown.append(work.image)  # of which the policy may ask for the mask
    image = max(shown, key=lambda one: one.tokens)
    encoder = _find_encoder(model, shape.config.model_type)
    text = (_assumed(len(told)) if encoder is None else len(encoder.processor.tokenizer(
        encoder.write_reply(told, True), add_special_tokens=False)['input_ids']) - 1)
    reply = image.tokens + text
    # A reply is given if a whole turn may follow it.
    replies = min(given['max_turns'] - 1, (tokens - max_new_tokens) // (1 + reply))
    if not replies:
        return work, [f'conversations: one turn each; the settings leave no room for a reply of '
                      f'{reply} tokens']
    work = replace(work, turns=1 + replies, reply_tokens=replies * reply,
                   reply_images=float(replies), reply_image=image)
    work = replace(work, response_tokens=written_tokens(model, work, work.response_tokens))
    return work, [f'conversations: {work.turns} turns each, the most that they can have, and '
                  f'{reply} tokens in a reply ({image.tokens} of the largest image); shorter '
                  f'ones take less']


def shows_masks(model: Mapping[str, Any]) -> bool:
    """Whether a prompt of a model says that a turn may ask for the mask of an answer."""
    return any(offers_masks(template) for template in templates_of_model(model).values())


def written_tokens(model: Mapping[str, Any], work: Workload, tokens: int) -> int:
    """What the policy writes in all turns of a response, with so many tokens in each, as far as
    conversations may be as long."""
    if work.turns == 1:
        return tokens
    return min(work.turns * tokens, conversation_limits(model)[1] - work.reply_tokens)


def _coordinates(model: Mapping[str, Any], model_type: str) -> str:
    return model['policy'].get('coordinates') or FAMILIES[model_type].coordinates


def _find_encoder(model: Mapping[str, Any], model_type: str) -> PromptEncoder | None:
    """The encoder of a model's prompts; None if the policy's tokenizer is not here."""
    folder = find_folder(model['policy']['pretrained'])
    if folder is None or not any((folder / name).is_file()
                                 for name in ('tokenizer.json', 'vocab.json')):
        return None
    return PromptEncoder(str(folder), templates_of_model(model), 0,
                         _coordinates(model, model_type))


def _assumed(characters: int) -> int:
    """Tokens of a turn: a chat template takes about 20, and English and JSON have about 4
    characters per token."""
    return 20 + characters // 4
