# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Questions with answers in words from tables with images inside, as VLMEvalKit's benchmarks are
published (TreeBench is one)."""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from mmdpad.prompts.short_answers import letter_and_text
from mmdpad.utils import new_folder, to_jsonl

from ..annotation_fields import SEVERAL_IMAGES, unreadable, wrong_field
from ..errors import DatasetError, collecting, duplicates_by_id
from ..images import probe_image_bytes
from ..question_answering import AnsweredQuestion, make_item
from .image_files import ImageFiles

NEEDED = ('index', 'image', 'question', 'answer')
OPTIONS = 'multi-choice options'
BOXES = 'target_instances'
"""TreeBench's column of evidence."""
LINES = 'questions.jsonl'
_LONGEST = 2**28  # characters of a field
_REFERENCE = 64  # a shorter `image` is the index of the row that has it
_OPTION = re.compile(r'\(?([A-Z])[).:]\s*(.*)')


def convert_tsv(path: str, destination: Path, evidence: str | None = None,
                question_type: str | None = 'category') -> int:
    """Write a table as a folder for :class:`mmdpad.datasets.AnswerLinesDataset`, with
    ``questions.jsonl`` and ``images``.

    A row has ``index``, the id; ``image``, an image file in base64, or the index of another row
    with the same image; ``question``, and optionally ``hint``, which comes before it; ``answer``;
    and choices in columns ``A``, ``B`` and so on, or else as lines in ``multi-choice options``.
    With choices, ``answer`` is the letter or the text of one. Other columns are ignored. Only an
    empty field has no value: 'None' and 'NA' are choices like others (pandas reads them as none).

    Args:
        path: The table, with tabs between columns and texts in quotes where needed, in UTF-8.
        destination: A new folder; it appears only once it is complete.
        evidence: Column of the boxes that show the answer, [[x1, y1, x2, y2], ...] in pixels of the
            image; None for TreeBench's, if there is such a column.
        question_type: Column by which accuracies are also reported; ignored if there is none.

    Returns:
        How many questions were written.

    Raises:
        DatasetError: Lists every problem, also those that :class:`AnswerLinesDataset` finds.
        FileExistsError: ``destination`` already exists.
    """
    problems: list[DatasetError] = []
    lines: list[tuple[str, dict[str, Any], str]] = []  # with name, and the row that has the image
    found: dict[str, tuple[str, tuple[int, int]]] = {}  # row -> path and shape of its image
    with new_folder(destination) as folder:
        images = ImageFiles(folder, destination, copy=True)
        for where, row in read_tsv(path, (*NEEDED, *([evidence] if evidence else []))):
            with collecting(problems):
                index, image = row['index'].strip(), row['image'].strip()
                if image.startswith('['):
                    raise DatasetError(f'`image` of {where} is a list of images; {SEVERAL_IMAGES}',
                                       'several images')
                if len(image) > _REFERENCE:
                    content, shape = _read_image(image, where)
                    found[index] = images.add(content, index), shape
                lines.append((where, _make_line(row, where, evidence or BOXES, question_type),
                              index if len(image) > _REFERENCE else image))
        for where, line, owner in lines:
            with collecting(problems):
                if owner not in found:
                    raise wrong_field(where, 'image', 'an image in base64, or the index of another '
                                      'row that has one', owner)
                line['image'], shape = found[owner]
                check_line(line, where, shape)
        problems += duplicates_by_id((line['id'] for _, line, _ in lines), 'the index',
                                     path).values()
        if problems or not lines:
            raise DatasetError.listing(path, problems or [DatasetError(
                f'{path} has no rows; use another table', 'empty split')])
        (folder / LINES).write_bytes(to_jsonl(line for _, line, _ in lines))
    return len(lines)


def check_line(line: Mapping[str, Any], where: str, shape: tuple[int, int]) -> None:
    """Check a line as :class:`AnswerLinesDataset` does.

    Raises:
        DatasetError: It has problems.
    """
    made = make_item(AnsweredQuestion(
        line['id'], where, line['image'], line['texts'][0], line['answers'],
        line.get('evidence', ()), line.get('choices', ()), line.get('question_type')), shape)
    if isinstance(made, DatasetError):
        raise made


def read_tsv(path: str, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the columns of each row.

    Raises:
        DatasetError: The file cannot be read, or lacks a column.
    """
    row = 0
    try:
        with open(path, encoding='utf-8-sig', newline='') as file, _long_fields():
            # Strict, because an unclosed quote would swallow all rows that follow.
            table = csv.DictReader(file, delimiter='\t', restval='', strict=True)
            names = list(table.fieldnames or ())
            if missing := [name for name in needed if name not in names]:
                raise DatasetError(f'{path} lacks the column(s) {", ".join(missing)}, but has '
                                   f'{", ".join(names)}; name another column, or use another '
                                   'table', 'missing column')
            for row, fields in enumerate(table):
                where = f'{path}, row {row} (index {fields["index"]})'
                if None in fields:  # csv's key for fields without a column
                    raise DatasetError(f'{where} has more fields than columns; put texts with tabs '
                                       'or quotes in quotes', 'unreadable line')
                yield where, fields
    except OSError as error:
        raise unreadable(path, error) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f'{path} should be a table in UTF-8 with tabs between columns, but '
                           f'after row {row}: {error}; save it again', 'unreadable line') from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let csv read fields with an image; its limit of 128 kB is that of the whole process."""
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _make_line(row: Mapping[str, str], where: str, evidence: str,
               question_type: str | None) -> dict[str, Any]:
    """A line without its image."""
    if not row['index'].strip():
        raise wrong_field(where, 'index', 'a number or a text', row['index'])
    line: dict[str, Any] = dict(
        id=int(row['index']) if row['index'].isdecimal() else row['index'],
        texts=[' '.join(filter(None, (row.get('hint'), row['question'])))],
        answers=[row['answer']])
    options = _options(row, where)
    if options:
        # A text may be the letter of another choice; a letter counts first, and the line has both.
        choices, answer = list(options.values()), row['answer'].strip()
        names = [*options] if answer in options else choices
        if answer not in names:
            raise wrong_field(where, 'answer', f'one of the choices {", ".join(options)}',
                              row['answer'])
        line['choices'] = choices
        line['answers'] = [letter_and_text(names.index(answer), choices)]
    if boxes := row.get(evidence):
        line['evidence'] = _read_boxes(boxes, evidence, where)
    if kind := row.get(question_type or ''):
        line['question_type'] = kind
    return line


def _options(row: Mapping[str, str], where: str) -> dict[str, str]:
    """Letter -> text of each choice."""
    found = {letter: row[letter].strip() for letter in ascii_uppercase
             if (row.get(letter) or '').strip()}
    listed = row.get(OPTIONS) or ''
    if found or not listed.strip():
        return found
    for line in filter(str.strip, listed.splitlines()):
        option = _OPTION.fullmatch(line.strip())
        if option is None or option[1] not in ascii_uppercase[len(found):][:1]:
            raise wrong_field(where, OPTIONS, 'lines "A. ...", "B. ..." and so on', listed)
        found[option[1]] = option[2].strip()
    return found


def _read_boxes(text: str, name: str, where: str) -> list:
    """Boxes as written in Python or JSON; one box is a list of one."""
    try:
        boxes = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        boxes = None
    if not isinstance(boxes, list):
        raise wrong_field(where, name, 'a list of boxes [x1, y1, x2, y2]', text)
    return boxes if all(isinstance(box, list) for box in boxes) else [boxes]


def _read_image(text: str, where: str) -> tuple[bytes, tuple[int, int]]:
    """The content of an image file in base64, and its (height, width)."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong_field(where, 'image', 'an image in base64', text) from error
    return content, probe_image_bytes(content, f'the image of {where}')
