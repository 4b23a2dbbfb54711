# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""GQA: compositional questions about images with scene graphs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import print_log

from mmdpad.registry import DATASETS

from .annotation_fields import read_json, wrong_field
from .errors import DatasetError
from .question_answering import AnsweredQuestion, QuestionAnsweringDataset

EVIDENCE = ('answer_or_question', 'answer', 'question')
_NEEDED = ('question', 'imageId', 'answer')


@DATASETS.register_module()
class GQADataset(QuestionAnsweringDataset):
    """GQA (arXiv 1902.09506): questions as JSON, ``{id: {question, imageId, answer, annotations,
    types, ...}}``, and scene graphs, ``{image id: {width, height, objects: {id: {x, y, w, h,
    ...}}}}``, which give the boxes of the objects that a question's ``annotations`` name.

    The types of questions are those of their meaning (``types.semantic``), such as 'attr' or 'rel'.
    Objects without an area are not used as evidence; their number is logged.

    Args:
        ann_file: Such as train_balanced_questions.json.
        scene_graph_file: Such as train_sceneGraphs.json, relative to ``data_root``; None for no
            evidence (there are no scene graphs of the test splits).
        evidence: Which objects are the evidence: 'answer' for those that the answer names,
            'question' for those that the question names, or 'answer_or_question' for the former or,
            if there are none (as for yes and no), the latter.
        data_prefix: ``dict(img_path=FOLDER)``; the image is ``<imageId>.jpg`` in it.
        **kwargs: See :class:`QuestionAnsweringDataset`.

    Raises:
        ValueError: ``evidence`` is unknown.
    """

    def __init__(self, ann_file: str, scene_graph_file: str | None = None,
                 evidence: str = 'answer_or_question', data_root: str = '',
                 **kwargs: Any) -> None:
        if evidence not in EVIDENCE:
            raise ValueError(f'`evidence` should be one of {EVIDENCE}, but got {evidence!r}')
        self.evidence = evidence
        self.data_root = data_root
        self.scene_graph_file = scene_graph_file and self.beside(scene_graph_file)
        super().__init__(ann_file, data_root, **kwargs)

    def read_questions(self) -> Iterator[AnsweredQuestion | DatasetError]:
        """See :class:`QuestionAnsweringDataset`."""
        questions = _read_dict(self.ann_file)
        graphs = _read_dict(self.scene_graph_file) if self.scene_graph_file else None
        without_area = 0
        for identifier, content in questions.items():
            where = f'{self.ann_file}, question {identifier}'
            lacks = [name for name in _NEEDED if name not in content] if isinstance(
                content, dict) else _NEEDED
            if lacks:
                yield DatasetError(f'{where} lacks {", ".join(map(repr, lacks))}; use a file with '
                                   'questions and answers (the published ones for the test server '
                                   'have none)', 'missing key')
                continue
            boxes, shape = [], None
            if graphs is not None:
                try:
                    found, shape = self._find_boxes(content, graphs, where)
                except DatasetError as error:
                    yield error
                    continue
                boxes = [box for box in found if box[0] < box[2] and box[1] < box[3]]
                without_area += len(found) - len(boxes)
            types = content.get('types')
            yield AnsweredQuestion(
                identifier, where, self.image_path(f'{content["imageId"]}.jpg'),
                content['question'], [content['answer']], boxes, shape=shape,
                question_type=types.get('semantic') if isinstance(types, dict) else None)
        if without_area:
            print_log(f'{without_area} object(s) that questions of {self.ann_file} name have no '
                      f'area and are not used as evidence', logger='current',
                      level=logging.WARNING)

    def _find_boxes(self, content: dict, graphs: Mapping[str, Any],
                    where: str) -> tuple[list[list[float]], tuple[int, int]]:
        """The boxes of a question's evidence, and the (height, width) of its image."""
        graph: Any = graphs.get(str(content['imageId']))
        try:
            objects, shape = graph['objects'], (graph['height'], graph['width'])
        except (TypeError, KeyError, AttributeError) as error:
            raise DatasetError(
                f'The image {content["imageId"]} of {where} should have a scene graph with '
                f'`objects`, `width` and `height` in {self.scene_graph_file}, but has not; use '
                f'both files of one split', 'no scene graph') from error
        named: Any = ()
        annotations = content.get('annotations') or {}
        try:
            for part in self.evidence.split('_or_'):
                named = named or list(dict.fromkeys((annotations.get(part) or {}).values()))
        except (TypeError, AttributeError) as error:
            raise wrong_field(where, 'annotations', 'an object with the ids of objects in '
                              '`answer` and `question`', annotations) from error
        boxes = []
        for number in named:
            try:
                found = objects.get(str(number))
                x, y, width, height = (found[key] for key in 'xywh')
                boxes.append([x, y, x + width, y + height])
            except (TypeError, KeyError, AttributeError) as error:
                raise DatasetError(
                    f'The object {number} of {where} should have `x`, `y`, `w` and `h` in the '
                    f'scene graph of the image {content["imageId"]} in {self.scene_graph_file}, '
                    f'but has not; use both files of one split', 'unknown object') from error
        return boxes, shape


def _read_dict(path: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise wrong_field(path, 'content', 'an object with an entry for each id', content)
    return content
