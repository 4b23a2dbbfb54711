# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""VQA's format: a file of questions, and one of annotations with several people's answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmdpad.registry import DATASETS

from .annotation_fields import read_json, wrong_field
from .errors import DatasetError, duplicates_by_id
from .question_answering import AnsweredQuestion, QuestionAnsweringDataset


@DATASETS.register_module()
class VQADataset(QuestionAnsweringDataset):
    """VQAv2 (arXiv 1612.00837), OK-VQA (arXiv 1906.00067) and others in their format, without
    evidence.

    ``question_file`` has ``questions``, a list of dicts with ``question_id``, ``image_id`` and
    ``question``, and ``data_subtype``, such as 'val2014'. ``ann_file`` has ``annotations``, a list
    of dicts with ``question_id``, ``answers`` (ten dicts with ``answer``) and optionally
    ``answer_type``, the type of question here: 'yes/no', 'number' or 'other'. Every question needs
    an annotation.

    Args:
        ann_file: Such as v2_mscoco_val2014_annotations.json.
        question_file: Such as v2_OpenEnded_mscoco_val2014_questions.json, relative to
            ``data_root``.
        image_name: Name of an image file, with ``{data_subtype}`` and ``{image_id}``.
        **kwargs: See :class:`QuestionAnsweringDataset`.
    """

    def __init__(self, ann_file: str, question_file: str,
                 image_name: str = 'COCO_{data_subtype}_{image_id:012d}.jpg', data_root: str = '',
                 **kwargs: Any) -> None:
        self.data_root = data_root
        self.question_file = self.beside(question_file)
        self.image_name = image_name
        super().__init__(ann_file, data_root, **kwargs)

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        content = read_json(self.question_file)
        questions = list(_entries(content, 'questions', self.question_file,
                                  ('question_id', 'image_id', 'question')))
        annotations = list(_entries(read_json(self.ann_file), 'annotations', self.ann_file,
                                    ('question_id', 'answers')))
        yield from (found for found in (*questions, *annotations)
                    if isinstance(found, DatasetError))
        annotated = [entry for entry in annotations if isinstance(entry, dict)]
        known = {entry['question_id']: entry for entry in annotated}
        repeated = duplicates_by_id((entry['question_id'] for entry in annotated),
                                    'the annotation of question', self.ann_file)
        for entry in questions:
            if isinstance(entry, DatasetError):
                continue
            where = f'{self.question_file}, question {entry["question_id"]}'
            if entry['question_id'] in repeated:
                yield repeated[entry['question_id']]
                continue
            annotation = known.get(entry['question_id'])
            if annotation is None:
                yield DatasetError(f'{where} has no annotation in {self.ann_file}; use both files '
                                   f'of one split', 'no annotation')
                continue
            answers = annotation['answers']
            try:
                given = [answer['answer'] for answer in answers]
                name = self.image_name.format(data_subtype=content.get('data_subtype'),
                                              image_id=entry['image_id'])
            except (TypeError, KeyError):
                yield wrong_field(f'{self.ann_file}, question {entry["question_id"]}', 'answers',
                                  'a list of dicts with `answer`', answers)
                continue
            except (ValueError, IndexError) as error:
                yield DatasetError(f'`image_name` {self.image_name!r} should fit the image_id '
                                   f'{entry["image_id"]!r} of {where}, but: {error}; use an '
                                   'integer id, or another `image_name`', 'wrong image name')
                continue
            yield AnsweredQuestion(
                entry['question_id'], where, self.image_path(name), entry['question'], given,
                question_type=annotation.get('answer_type'))


@DATASETS.register_module()
class TextVQADataset(QuestionAnsweringDataset):
    """TextVQA (arXiv 1904.08920): questions about text in images, with ten answers each and without
    evidence.

    ``ann_file`` has ``data``, a list of dicts with ``question_id``, ``image_id``, ``question`` and
    ``answers`` (ten texts).

    Args:
        ann_file: Such as TextVQA_0.5.1_val.json.
        data_prefix: ``dict(img_path=FOLDER)``; the image is ``<image_id>.jpg`` in it.
        **kwargs: See :class:`QuestionAnsweringDataset`.
    """

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        for entry in _entries(read_json(self.ann_file), 'data', self.ann_file,
                              ('question_id', 'image_id', 'question', 'answers')):
            if isinstance(entry, DatasetError):
                yield entry
                continue
            yield AnsweredQuestion(
                entry['question_id'], f'{self.ann_file}, question {entry["question_id"]}',
                self.image_path(f'{entry["image_id"]}.jpg'), entry['question'], entry['answers'])


def _entries(content: Any, name: str, path: str,
             needed: tuple[str, ...]) -> Iterator[dict | DatasetError]:
    """Yield the entries of a list in a file, or what is wrong with them."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise wrong_field(path, name, 'a list', entries)
    for number, entry in enumerate(entries):
        lacks = [key for key in needed if key not in entry] if isinstance(entry, dict) else needed
        if lacks:
            yield DatasetError(f'`{name}[{number}]` of {path} lacks {", ".join(map(repr, lacks))}; '
                               'use a split with answers, or remove the entry', 'missing key')
        elif not isinstance(entry['question_id'], (int, str)):
            yield wrong_field(path, f'{name}[{number}].question_id', 'an integer or a text',
                              entry['question_id'])
        else:
            yield entry
