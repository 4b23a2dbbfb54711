# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of data sets of questions with answers in words, and what all of them check."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdpad.prompts.short_answers import MAX_CHOICES, read_choice, with_choices

from .annotation_fields import are_numbers, check_box_inside, check_question, wrong_field
from .errors import DatasetError, collecting, duplicates_by_id
from .images import probe_image
from .reasoning_dataset import ReasoningDataset, check_on_bad_entry

Boxes = Sequence[Sequence[float]]


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question as its files have it, before its checks.

    Attributes:
        id: Of the question, unique in the data set.
        where: File and place in it, for messages.
        image: Path of the image.
        question: The question, without choices.
        answers: What one or several annotators answered.
        evidence: Boxes of what shows the answer, XYXY in pixels of the image; empty if unknown.
        choices: For a multiple-choice question, otherwise empty.
        question_type: By which accuracies are also reported; None if there are no types.
        other_boxes: Of objects that are not evidence.
        shape: (height, width) of the image as the files have it; None if they do not.
        extras: Further keys of the item.
    """

    id: Any
    where: str
    image: str
    question: Any
    answers: Any
    evidence: Any = ()
    choices: Any = ()
    question_type: Any = None
    other_boxes: Boxes = ()
    shape: tuple[int, int] | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


class QuestionAnsweringDataset(ReasoningDataset):
    """A data set of questions with answers in words, for
    :class:`mmdpad.tasks.QuestionAnsweringTask`. A subclass reads its files in
    :meth:`read_questions`.

    Besides the keys of :class:`ReasoningDataset`, an item has ``answers``, a tuple of one or more
    texts, ``answer``, the most frequent of them (the first, if several are), for supervised
    training, and ``evidence``, a tuple of boxes (x1, y1, x2, y2) in pixels of the image, x2 and y2
    outer edges, empty if none is known. ``instances`` has the same boxes in mmdet's form, for
    ``TargetsFromBoxes``. If the files have them, there are ``choices``, which the question then
    lists (:func:`mmdpad.prompts.with_choices`), ``question_type`` and ``other_boxes``.

    Files and image headers are checked when the data set is built. Errors are: a duplicate id, a
    missing or unreadable image, one with another size than the files say, an empty question, no
    answer that is a text, evidence or other boxes without an area or outside the image, and choices
    that are not different, or without the answer among them.

    Args:
        ann_file: The file of annotations; a relative path is relative to ``data_root``.
        data_root: See ``ann_file``.
        data_prefix: ``dict(img_path=FOLDER)``, also relative to ``data_root``: the folder of the
            images.
        on_bad_entry: 'error', or 'skip' to leave out questions with any of these errors, for
            published files that have some. Their number is logged, and listed by kind as
            ``bad_entries`` in the protocol of results. Of questions with the same id, the first is
            kept. A file that cannot be read is an error anyway.
        **kwargs: See :class:`ReasoningDataset`.
    """

    def __init__(self, ann_file: str, data_root: str = '', data_prefix: dict | None = None,
                 on_bad_entry: str = 'error', **kwargs: Any) -> None:
        self.on_bad_entry = check_on_bad_entry(on_bad_entry)
        super().__init__(ann_file=str(ann_file), data_root=str(data_root),
                         data_prefix=data_prefix or {}, several_objects=True, **kwargs)

    @property
    def where(self) -> str:
        return self.ann_file

    @abstractmethod
    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """Yield every question, or all problems with it as one error, in the order of the file.
        Raise a problem that prevents reading the others."""

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield the items, in the order of :meth:`read_questions`; each image is read once."""
        questions: list[AnsweredQuestion] = []
        for found in self.read_questions():
            if isinstance(found, DatasetError):
                yield found
            else:
                questions.append(found)
        repeated = duplicates_by_id((found.id for found in questions), 'the question id',
                                    self.where)
        first: set[Any] = set()
        shapes: dict[str, tuple[int, int] | DatasetError] = {}
        for found in questions:
            if found.image not in shapes:
                try:
                    shapes[found.image] = probe_image(found.image, self.max_pixels)
                except DatasetError as error:
                    shapes[found.image] = error
            problems = [repeated[found.id]] if found.id in first else []
            first.add(found.id)
            yield make_item(found, shapes[found.image], problems)

    @property
    def image_folder(self) -> str:
        """The folder that image names are relative to, unless ``data_prefix`` names it."""
        return self.data_root or ''

    def image_path(self, name: str) -> str:
        """The path of an image file."""
        return str(Path(self.data_prefix.get('img_path', self.image_folder)) / name)

    def beside(self, path: str) -> str:
        """The path of another file, relative to ``data_root``."""
        return str(Path(self.data_root or '') / path)


def make_item(found: AnsweredQuestion, probed: tuple[int, int] | DatasetError,
              problems: Sequence[DatasetError] = ()) -> dict | DatasetError:
    """The item of a question, or all problems with it.

    Args:
        found: The question.
        probed: (height, width) of its image, or the problem with that.
        problems: Others that are known.
    """
    problems = list(problems)
    shape = None
    if isinstance(probed, DatasetError):
        problems.append(probed)
    else:
        shape = probed
    with collecting(problems):
        check_question(found.question, 'question', found.where)
    answers: tuple[str, ...] = ()
    with collecting(problems):
        answers = check_answers(found.answers, found.where)
    choices: tuple[str, ...] = ()
    if found.choices and answers:
        with collecting(problems):
            choices = check_choices(found.choices, answers, found.where)
    evidence: tuple[tuple[float, ...], ...] = ()
    with collecting(problems):
        evidence = check_boxes(found.evidence, 'evidence', found.where, shape)
    others: tuple[tuple[float, ...], ...] = ()
    with collecting(problems):
        others = check_boxes(found.other_boxes, 'other_boxes', found.where, shape)
    if not (found.question_type is None or isinstance(found.question_type, str)):
        problems.append(wrong_field(found.where, 'question_type', 'a text', found.question_type))
    if shape and found.shape not in (None, shape):
        assert found.shape is not None
        problems.append(DatasetError(
            f'{found.image} should be {found.shape[1]} x {found.shape[0]} pixels (width x height) '
            f'as {found.where} says, but is {shape[1]} x {shape[0]}; use the original image, not '
            f'resized or rotated', 'wrong image size'))
    if problems:
        return DatasetError.of_entry(problems)
    question = with_choices(found.question, choices) if choices else found.question
    instances = [dict(bbox=list(box), bbox_label=0, ignore_flag=0) for box in evidence]
    optional = dict(choices=choices, question_type=found.question_type,
                    other_boxes=others)
    return dict(
        img_id=found.id, img_path=found.image, ann_path=found.where, texts=[question],
        text_index=0, question=question, is_sentence=None, answers=answers,
        answer=Counter(filter(str.strip, answers)).most_common(1)[0][0], evidence=evidence,
        instances=instances, num_targets=len(evidence),
        **{key: value for key, value in optional.items() if value}, **found.extras)


def check_answers(answers: Any, where: str) -> tuple[str, ...]:
    """
    Raises:
        DatasetError: This is not a list of texts, one of which at least is not empty.
    """
    if not isinstance(answers, (list, tuple)) or not all(
            isinstance(text, str) for text in answers) or not any(map(str.strip, answers)):
        raise wrong_field(where, 'answers', 'a list of texts, at least one of them not empty',
                          answers)
    return tuple(answers)


def check_choices(choices: Any, answers: Sequence[str], where: str) -> tuple[str, ...]:
    """
    Raises:
        DatasetError: This is not a list of at least two texts, too many for letters, or two cannot
            be told apart, or no answer names one of them by text or letter, as
            :func:`mmdpad.prompts.read_choice` reads it.
    """
    if not isinstance(choices, (list, tuple)) or not 2 <= len(choices) <= MAX_CHOICES or not all(
            isinstance(text, str) and text.strip() for text in choices):
        raise wrong_field(where, 'choices', f'a list of 2 to {MAX_CHOICES} texts', choices)
    plain = [text.strip().casefold() for text in choices]
    if len(set(plain)) < len(plain):
        raise wrong_field(where, 'choices', 'texts that differ', choices)
    for text in answers:  # a letter wins, also where it is the text of another choice
        if (name := text.strip().casefold()) in plain and (
                read_choice(text, choices) != plain.index(name)):
            raise DatasetError(f'The answer {text!r} of {where} should name one of `choices`, but '
                               f'is the text of one and the letter of another of {list(choices)}; '
                               f'write letter and text, such as "(B) A"', 'ambiguous answer')
    if all(read_choice(text, choices) is None for text in answers):
        raise DatasetError(f'`choices` of {where} should contain the answer {answers[0]!r}, but '
                           f'are {list(choices)}; add it, or correct the answer',
                           'answer not among choices')
    return tuple(choices)


def check_boxes(boxes: Any, name: str, where: str,
                shape: tuple[int, int] | None) -> tuple[tuple[float, ...], ...]:
    """
    Args:
        boxes: The evidence, or other boxes.
        name, where: For messages.
        shape: (height, width) of the image; None if unknown.

    Returns:
        The boxes, each of them once; Visual-CoT repeats some.

    Raises:
        DatasetError: This is not a list of boxes with an area, or one lies outside the image.
    """
    if not isinstance(boxes, (list, tuple)):
        raise wrong_field(where, name, 'a list of boxes', boxes)
    for number, box in enumerate(boxes):
        if not (are_numbers(list(box) if isinstance(box, tuple) else box, 4)
                and box[0] < box[2] and box[1] < box[3]):
            raise wrong_field(where, f'{name}[{number}]', '[x1, y1, x2, y2], numbers in pixels '
                              'of the image, with x1 < x2 and y1 < y2', box)
        if shape:
            check_box_inside(box, f'{name}[{number}]', where, *shape)
    return tuple(dict.fromkeys(tuple(map(float, box)) for box in boxes))
