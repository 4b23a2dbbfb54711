# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The model's answer for one image, as data and as a picture."""

from __future__ import annotations

import io
import os.path as osp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample
from PIL import Image

from mmdpad.datasets.transforms import read_image
from mmdpad.geometry.mask_iou import union_of
from mmdpad.geometry.masks import MOST_PIXELS, encode_mask
from mmdpad.structures import ParseFailure, Selection
from mmdpad.utils import to_jsonl, write_atomically
from mmdpad.visualization import draw_answer
from mmdpad.visualization.answer import label_texts
from mmdpad.visualization.regions import Regions

from .inputs import Query


class Answer(dict):
    """The dict that :meth:`ReasonSegInferencer.__call__` describes; a notebook displays it.

    Args:
        image: The image: a path, or (H, W, 3) uint8 RGB.
        **items: Keys and values.
    """

    def __init__(self, image: str | np.ndarray, /, **items: Any) -> None:
        super().__init__(items)
        self._image = image

    @classmethod
    def of(cls, sample: DetDataSample, query: Query, prepare_seconds: float) -> Answer:
        """Build the answer from a data sample that the model's ``predict`` returned."""
        found, reasoning = sample.pred_instances, sample.reasoning
        parsed, record = reasoning['parsed'], reasoning.get('conversation')
        failure = (f'{parsed.reason}: {parsed.detail}' if isinstance(parsed, ParseFailure)
                   else None)
        masks = found.get('masks')
        if failure is None and masks is not None and not len(masks) and parsed.objects:
            failure = 'no_mask: the decoder gave no mask'
        objects = [dict(box=box, points=points, score=score) for box, points, score in zip(
            found.bboxes.tolist(), found.points.tolist() if 'points' in found
            else [[]] * len(found), found.scores.tolist(), strict=True)]
        if 'negative_points' in found:
            objects = [dict(item, negative_points=negatives) for item, negatives in zip(
                objects, found.negative_points, strict=True)]
        if any(found.get('label_names', ())):  # not of boxes of evidence
            objects = [dict(item, label=label, description=description)
                       for item, label, description in zip(
                           objects, found.label_names, found.descriptions, strict=True)]
        first = objects[0] if objects else dict(box=None, points=None, score=None)
        return cls(
            query.image, image=query.path, question=query.question,
            mask=None if masks is None else masks.cpu().numpy().astype(bool).any(axis=0), **first,
            objects=objects, caption=parsed.caption, answer=parsed.answer, reasoning=parsed.think,
            response='\n\n'.join(record.texts) if record else reasoning['response'],
            failure=failure,
            seconds=dict(prepare=prepare_seconds, **reasoning['seconds']),
            **(_describe_choice(sample.selection, masks is not None)
               if 'selection' in sample else {}),
            **(dict(conversation=record.describe()) if record else {}))

    def draw(self) -> np.ndarray:
        """The image with mask, boxes and points, and the text beside it: (h, w, 3) uint8 RGB.

        Raises:
            DatasetError, ValueError: The file is gone or has been replaced.
        """
        image = self._image
        if isinstance(image, str):
            image = read_image(image, MOST_PIXELS)
        return draw_answer(
            image, question=self['question'], think=self['reasoning'], caption=self['caption'],
            note=self['failure'] and f'No answer: {self["failure"]}', answer=self.get('answer'),
            descriptions=[item.get('description', '') for item in self['objects']],
            **vars(self.regions))

    @property
    def regions(self) -> Regions:
        """What :meth:`draw` draws on the image."""
        objects = self['objects']
        labels = label_texts([item['label'] for item in objects if 'label' in item],
                             [item['score'] for item in objects])
        return Regions(None if self['failure'] else self['mask'],
                       [item['box'] for item in objects], labels,
                       points=[point for item in objects for point in item['points']],
                       negative_points=[point for item in objects
                                        for point in item.get('negative_points', ())],
                       other_masks=[one['mask'] for one in self.get('samples', ())
                                    if not one['chosen'] and one['usable']
                                    and one['mask'] is not None])

    def write(self, log: str, picture: np.ndarray | None = None) -> str:
        """Append a line to a :func:`new_log` (the mask as COCO RLE) and save the picture beside
        it, named after the image.

        Args:
            log: Path of the log.
            picture: The result of :meth:`draw`, if available.

        Returns:
            The picture's path.
        """
        stem = Path(self['image'] or 'image').stem
        path = write_atomically(osp.join(osp.dirname(log), f'{stem}.png'),
                                _as_png(self.draw() if picture is None else picture))
        line = dict(_encoded(self), picture=osp.basename(path))
        if 'samples' in self:
            line['samples'] = [_encoded(one) for one in self['samples']]
        with open(log, 'ab') as file:
            file.write(to_jsonl([line]))
        return path

    def _repr_png_(self) -> bytes:
        """What IPython displays."""
        return _as_png(self.draw())


def _encoded(item: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its mask as COCO RLE."""
    mask = item['mask']
    return dict(item, mask=None if mask is None else encode_mask(mask))


def _describe_choice(selection: Selection, has_masks: bool) -> dict[str, Any]:
    """The keys ``samples`` and ``abstained`` of an answer."""
    assert selection.scores is not None
    return dict(
        samples=[dict(
            response=one.response, value=None if np.isnan(value) else float(value),
            usable=one.usable, chosen=number == selection.chosen,
            mask=union_of(one.instances.masks) if has_masks else None)
            for number, (one, value) in enumerate(
                zip(selection.candidates, selection.scores, strict=True))],
        abstained=selection.chosen is None)


def _as_png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'PNG')
    return buffer.getvalue()


def new_log(out_dir: str) -> str:
    """Create an empty ``results.jsonl`` in a folder; a number is added if the name is taken."""
    return write_atomically(osp.join(out_dir, 'results.jsonl'), b'')
