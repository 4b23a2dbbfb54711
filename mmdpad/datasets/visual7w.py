# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Visual7W: multiple-choice questions with answers in words, or with a box as the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmdpad.prompts.short_answers import MAX_CHOICES, letter_and_text
from mmdpad.registry import DATASETS

from .annotation_fields import read_json, wrong_field
from .errors import DatasetError
from .question_answering import AnsweredQuestion, QuestionAnsweringDataset


@DATASETS.register_module()
class Visual7WDataset(QuestionAnsweringDataset):
    """Visual7W (arXiv 1511.03416), telling or pointing; ``ann_file`` says which.

    It has ``images``, a list of dicts with ``filename``, ``split`` and ``qa_pairs``: dicts with
    ``qa_id``, ``question``, ``type``, ``answer`` and ``multiple_choices``, three wrong ones.

    - Telling: answer and choices are texts. The question lists all four, in an order that only
      depends on ``qa_id`` (:func:`numpy.random.default_rng`); the answer has its letter, too.
      There is no evidence.
    - Pointing ("which ..."): answer and choices are ids of ``boxes``, a list of dicts with
      ``box_id``, ``x``, ``y``, ``width``, ``height`` and ``name``. The box of the answer is the
      evidence and its name the answer in words; the wrong boxes are ``other_boxes``, which the
      question does not list.

    Args:
        ann_file: Such as dataset_v7w_telling.json.
        data_prefix: ``dict(img_path=FOLDER)``: the folder of the images.
        split: 'train', 'val' or 'test'.
        **kwargs: See :class:`QuestionAnsweringDataset`.
    """

    def __init__(self, ann_file: str, split: str, **kwargs: Any) -> None:
        self.split = split
        super().__init__(ann_file, **kwargs)

    @property
    def where(self) -> str:
        return f'{self.ann_file}, split {self.split}'

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        content = read_json(self.ann_file)
        images = content.get('images') if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise wrong_field(self.ann_file, 'images', 'a list', images)
        listed = content.get('boxes') or []
        if not isinstance(listed, list):
            raise wrong_field(self.ann_file, 'boxes', 'a list', listed)
        boxes = {box['box_id']: box for box in listed
                 if isinstance(box, dict) and isinstance(box.get('box_id'), (int, str))}
        for number, image in enumerate(images):
            try:
                if image['split'] != self.split:
                    continue
                path, pairs = self.image_path(image['filename']), list(image['qa_pairs'])
            except (TypeError, KeyError):
                yield DatasetError(f'`images[{number}]` of {self.ann_file} should have `split`, '
                                   '`filename` and `qa_pairs`, but has not; restore the file',
                                   'missing key')
                continue
            for pair in pairs:
                yield self._read_pair(pair, path, boxes)

    def _read_pair(self, pair: Any, image: str,
                   boxes: Mapping[Any, dict]) -> AnsweredQuestion | DatasetError:
        try:
            identifier, question, answer = pair['qa_id'], pair['question'], pair['answer']
            wrong, kind = list(pair['multiple_choices']), pair.get('type')
        except (TypeError, KeyError):
            return DatasetError(f'A question about {image} in {self.ann_file} should have `qa_id`, '
                                '`question`, `answer` and `multiple_choices`, but has not; restore '
                                'the file', 'missing key')
        where = f'{self.ann_file}, question {identifier}'
        if type(identifier) is not int or identifier < 0:
            return wrong_field(where, 'qa_id', 'an integer, 0 or more', identifier)
        if isinstance(answer, str):
            order = np.random.default_rng(identifier).permutation(len(wrong) + 1)
            choices = [(answer, *wrong)[place] for place in order]
            right = order.tolist().index(0)
            if right < MAX_CHOICES:  # a text may be the letter of another choice
                answer = letter_and_text(right, choices)
            return AnsweredQuestion(identifier, where, image, question, [answer], choices=choices,
                                    question_type=kind)
        try:
            right, *others = (_read_box(boxes[number]) for number in (answer, *wrong))
            name = boxes[answer]['name']
        except (TypeError, KeyError):
            return DatasetError(f'{where} should name boxes with `x`, `y`, `width`, `height` and '
                                f'`name` among the `boxes` of the file, but names '
                                f'{[answer, *wrong]}; restore the file', 'unknown box')
        return AnsweredQuestion(identifier, where, image, question, [name], [right],
                                question_type=kind, other_boxes=others)


def _read_box(box: Mapping[str, float]) -> list[float]:
    return [box['x'], box['y'], box['x'] + box['width'], box['y'] + box['height']]
