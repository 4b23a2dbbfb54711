# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Conversations of a segmentor, in which its policy looks closer before it answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from torch import Tensor

from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.crops import Crop
from mmdpad.models.rollouts.conversations import Conversation, ConversationSampler
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.prompts.template import TEMPLATES
from mmdpad.prompts.zoom import offers_calls
from mmdpad.structures import ConversationRecord
from mmdpad.tasks import Parsed

from .answering_ahead import Inputs
from .mask_decoding import Window
from .mask_turns import prepare_mask
from .settings import check_alone, conversation_settings

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


def build_conversations(model: ReasoningSegmentor,
                        config: Mapping[str, Any]) -> ConversationSampler | None:
    """Build `model.conversation`; None without it. A prompt that does not fit is a warning.

    Args:
        model: The model, complete otherwise.
        config: Of the model; ``conversation``, ``train_cfg`` and ``test_cfg`` are read.

    Raises:
        ValueError: See :func:`.settings.conversation_settings` and :class:`.ConversationSampler`;
            or the model's box scorer needs a single response.
    """
    given = conversation_settings(config)
    offering = [name for name, template in model.policy.encoder.templates.items()
                if offers_calls(template)]
    if given is None:
        if offering:
            print_log(f'The prompts of {", ".join(offering)} offer to show a part of the image, '
                      f'but `model.conversation` is not set, so a call is read as an answer that '
                      f'cannot be used; set it, or use another template', 'current',
                      logging.WARNING)
        return None
    if model.box_scorer is not None and model.box_scorer.needs_policy:
        check_alone('box_scorer', type(model.box_scorer).__name__)
    if not offering:
        # A template of another text may be one with which the policy learned to write calls.
        known = TEMPLATES.keys() & {*model.policy.encoder.templates.values()}
        print_log('No prompt of the model mentions a call (<zoom>), so a policy that was not '
                  "trained to write calls will not look closer; set `prompt_template='zoom'`, or "
                  'explain them in a template', 'current',
                  logging.WARNING if known else logging.INFO)
    if given.pop('decode_in_crop') and model.decoder is None:
        raise ValueError('`conversation.decode_in_crop` should be False without `model.decoder`, '
                         'but got True; leave it out')
    return ConversationSampler(model.rollout_engine, model.policy, **given)


def converse(model: ReasoningSegmentor, prompts: Sequence[Any], inputs: Inputs,
             data_samples: Sequence[DetDataSample],
             **sampling: Any) -> tuple[Responses, list[Conversation]]:
    """Sample conversations, see :class:`.ConversationSampler`.

    Raises:
        ValueError: There are no original images to show parts of.
    """
    assert model.conversations is not None
    if 'image' not in inputs:
        raise ValueError('`inputs` of a model with `conversation` should have the original images '
                         'as `image`, as `PackReasoningInputs` gives them, but got only '
                         f'{sorted(inputs)}')
    return model.conversations(
        prompts, inputs['image'], [shape_of(image) for image in inputs['model_image']],
        prepare_mask=partial(prepare_mask, model, inputs, data_samples), **sampling)


def read_conversation(model: ReasoningSegmentor, record: ConversationRecord, image: Tensor,
                      model_image: Tensor, sample: DetDataSample) -> tuple[Parsed, int | None]:
    """Parse the last turn, and count the tokens of the reasoning in all turns.

    Args:
        model, record: The conversation of a model.
        image, model_image: (3, H, W) and (3, h, w), the original and the model image.
        sample: Of the question.

    Returns:
        The answer, with boxes and points in pixels of the model image, and the number of tokens;
        None if no turn has reasoning.
    """
    parsed = [model.task_of(sample).parse(text) for text in record.texts]
    counts = [model.policy.count_tokens(turn.think) for turn in parsed]
    known = [count for count in counts if count is not None]
    shape, model_shape = shape_of(image), shape_of(model_image)
    crop = record.crops[-1] if record.crops else Crop.whole(shape, model_shape)
    return (crop.answer_to_model_frame(parsed[-1], model.policy.coordinates, shape, model_shape),
            sum(known) if known else None)


def windows_of(model: ReasoningSegmentor, records: Sequence[ConversationRecord | None] | None
               ) -> list[Window | None] | None:
    """The part of the image that the decoder sees for the answer of each conversation: the last
    crop, with ``decode_in_crop``. None for all of it."""
    if records is None or not model.decode_in_crop:
        return None
    return [record.crops[-1].box if record and record.crops else None for record in records]
