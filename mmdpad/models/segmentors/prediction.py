# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Answers questions and decodes the masks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mmdet.structures import DetDataSample

from mmdpad.geometry.coordinates import shape_of
from mmdpad.structures import ParseFailure

from .answering_ahead import Inputs
from .answers import find_answers
from .box_instances import box_instances
from .box_scores import score_answers
from .choosing import choose_answers

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


def predict(model: ReasoningSegmentor, inputs: Inputs,
            data_samples: list[DetDataSample]) -> list[DetDataSample]:
    """See :meth:`.ReasoningSegmentor.predict`."""
    started = time.perf_counter()
    model._name_tasks(data_samples)
    find = find_answers if model.choice is None else choose_answers
    answers = find(model, inputs, data_samples)
    scored = score_answers(model, inputs, data_samples, answers)
    seconds = (time.perf_counter() - started) / max(len(answers), 1)
    for row, (sample, answer) in enumerate(zip(data_samples, answers, strict=True)):
        parsed = answer['parsed']
        usable = () if isinstance(parsed, ParseFailure) else parsed.objects
        started = time.perf_counter()
        image = inputs['image'][row]
        height, width = inputs['model_image'][row].shape[-2:]
        decoded = answer.pop('instances', None)
        if not model.task_of(sample).decodes_masks:
            sample.pred_instances, answer['invented'] = box_instances(
                usable, sample, shape_of(image), (height, width), scored[row])
        elif decoded is not None:
            sample.pred_instances = decoded
        else:
            (sample.pred_instances, ) = model.decode_group(
                [(usable, parsed.caption)], image, (height, width),
                model.windows_of([answer.get('conversation')]))
        answer.pop('response_ids')
        spent = dict(answer=seconds + sample.pop('sampled_response', (0.0,))[-1],
                     draw=time.perf_counter() - started)
        if 'selection' in sample:
            own = sample.selection.seconds
            spent = dict(answer=own['sample'] + own['select'], draw=own['decode'] + spent['draw'])
        sample.reasoning = dict(
            answer, caption_tokens=model.policy.count_tokens(parsed.caption), seconds=spent)
    return data_samples
