# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Formats with one question on each line: mmdpad's own, and Visual-CoT's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdpad.registry import DATASETS

from .annotation_fields import are_texts, parse_answer, parse_boxes
from .errors import DatasetError
from .json_lines import FIELDS, find_malformed, read_lines
from .question_answering import AnsweredQuestion, QuestionAnsweringDataset

_LIST = (False, lambda v: isinstance(v, list), 'a list')
_TEXT = (False, lambda v: isinstance(v, str) and v != '', 'a text that is not empty')
ANSWER_FIELDS = {
    **{name: FIELDS[name] for name in ('id', 'image', 'texts', 'task', 'height', 'width')},
    'answers': (True, lambda v: isinstance(v, list), 'a list of texts'),
    'evidence': (False, lambda v: isinstance(v, list), 'a list of boxes [x1, y1, x2, y2]'),
    'choices': _LIST,
    'question_type': _TEXT,
}
_VISUAL_COT_FIELDS = {
    'question': (True, *_TEXT[1:]), 'answer': (True, *_TEXT[1:]), 'image': FIELDS['image'],
    'possible_answers': (False, are_texts, 'a list of at least one text'),
    'bboxs': (True, lambda v: isinstance(v, list), 'a list of boxes [x1, y1, x2, y2]'),
    'width': FIELDS['width'], 'height': FIELDS['height'], 'dataset': _TEXT, 'split': _TEXT,
}


@DATASETS.register_module()
class AnswerLinesDataset(QuestionAnsweringDataset):
    """mmdpad's own format for questions with answers in words: a file of JSON lines as of
    :class:`JsonLinesDataset`, but with answers instead of masks.

    A line is an object with ``id``, ``image``, ``texts`` (the first is asked) and ``answers`` (a
    list of texts). Optional fields are ``evidence`` (a list of boxes [x1, y1, x2, y2] in pixels of
    the image, x2 and y2 outer edges), ``choices``, ``question_type``, ``task``, ``height`` and
    ``width`` of the image, and those of :mod:`.annotation_fields`. Other keys and empty lines are
    ignored.

    Args:
        data_prefix: ``dict(img_path=FOLDER)``; the default is the folder of ``ann_file``.
        **kwargs: See :class:`QuestionAnsweringDataset`.
    """

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        for where, line in read_lines(self.ann_file):
            faults = find_malformed(line, where, ANSWER_FIELDS)
            extras, others = {}, None
            if not faults:
                try:
                    extras, others = parse_answer(where, line), parse_boxes(where, line)
                except DatasetError as error:
                    faults = [error]
            if faults:
                yield DatasetError.of_entry(faults)
                continue
            if 'task' in line:
                extras['task'] = line['task']
            yield AnsweredQuestion(
                line['id'], where, self.image_path(line['image']), line['texts'][0],
                line['answers'], line.get('evidence', ()), line.get('choices', ()),
                line.get('question_type'), others or (), _shape_of(line), extras)

    @property
    def image_folder(self) -> str:
        return str(Path(self.ann_file).parent)


@DATASETS.register_module()
class VisualCoTDataset(QuestionAnsweringDataset):
    """The metadata of Visual-CoT (arXiv 2403.16999): JSON lines with ``question``, ``answer``,
    ``image``, ``bboxs`` (the evidence, boxes [x1, y1, x2, y2]), ``width``, ``height``, ``dataset``
    and ``split``. Some have ``possible_answers``, several people's or spellings, which then count
    instead of ``answer``.

    The id of a question is the number of its line. Types of questions are the names of the source
    data sets.

    Args:
        ann_file: Such as metadata/textvqa_cot_train.jsonl.
        data_prefix: ``dict(img_path=FOLDER)``: the folder of the source data set's images.
        split: Of the questions to read; None for all.
        **kwargs: See :class:`QuestionAnsweringDataset`.
    """

    def __init__(self, ann_file: str, split: str | None = None, **kwargs: Any) -> None:
        self.split = split
        super().__init__(ann_file, **kwargs)

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        for number, (where, line) in enumerate(read_lines(self.ann_file)):
            faults = find_malformed(line, where, _VISUAL_COT_FIELDS)
            if faults:
                yield DatasetError.of_entry(faults)
                continue
            if self.split not in (None, line.get('split')):
                continue
            yield AnsweredQuestion(
                number, where, self.image_path(line['image']), line['question'],
                line.get('possible_answers', [line['answer']]), line['bboxs'],
                question_type=line.get('dataset'), shape=_shape_of(line))


def _shape_of(line: dict) -> tuple[int, int] | None:
    """(height, width) that a line states; None if it lacks either."""
    return (line['height'], line['width']) if {'height', 'width'} <= line.keys() else None
