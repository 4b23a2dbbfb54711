# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Questions about the classes of an image, for open-vocabulary detection."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from mmengine.dataset import BaseDataset

from mmdpad.prompts.labels import find_clashing_labels, normalize_label
from mmdpad.registry import TRANSFORMS

from ..class_annotations import ClassAnnotations, read_class_annotations
from ..errors import DatasetError, collecting, show_names
from .model_image import check_box
from .questions import QuestionFromInstances
from .required import missing, require

DRAWS = ('uniform', 'frequency')


@TRANSFORMS.register_module()
class QuestionFromClasses(QuestionFromInstances):
    """Ask for all instances of some classes at once: those in an image and, as negatives, some that
    it is known not to have.

    For the ``questions`` of a :class:`mmdpad.datasets.QuestionDataset` (with
    ``several_objects=True``) about any data set of mmdet with boxes. What the image lacks depends
    on the data set:

    - ``CocoDataset``, ``Objects365V1Dataset``, ``V3DetDataset`` and others in COCO's form, and
      ``ODVGDataset`` with a label map: every class without an annotation in the image. For an
      ``ODVGDataset`` made of data that do not mark all classes in all images, set ``negatives=0``.
    - ``LVISV1Dataset`` (any file with ``neg_category_ids``): the classes in that list. mmdet does
      not hand it on, so it is read from the file.
    - ``V3DetDataset`` with ``tree_file``: not the classes above or below those in the image.
    - ``ODVGDataset`` without a label map, ``OpenImagesDataset``: nothing is known. Phrases of a
      caption are the classes of that image.

    An image's questions, and the negatives in them, are the same in each epoch and each run. The
    classes of an image are shuffled, so that their order does not tell which are there;
    ``negatives='all'`` keeps the order of the labels.

    Added keys beside those of the base class: ``classes``, the names in the question, and
    ``class_labels``, the data set's label of each (for phrases, the number within the image);
    ``not_exhaustive``, labels of which not every instance is marked, if there are any;
    ``instances``, those of these classes. Ignored ones have ``crowd``, whether they cover a group.

    Args:
        template: The question; ``{classes}`` is replaced by 'cup, fork, plate', or ``{phrase}`` by
            'cup, fork and plate'. Underscores in names become spaces.
        negatives: How many classes to add that the image lacks: a number; a share of the classes
            that it has, rounded up, and at least of one (1.0 adds as many); or 'all', which asks
            for everything that is known about an image, as an evaluation needs.
        draw: 'uniform', or 'frequency': classes with more annotations are drawn more often, in
            proportion.
        max_classes: Most classes in a question; more are split into several questions of nearly
            equal length. None sets no limit.
        phrases: Class -> what questions and answers call it, for names that a model cannot know
            ('CoW': 'flat mushroom'). Others keep their names.
        tree_file: V3Det's category tree, see :func:`.read_tree`.
        seed: Of the draw, together with the image's id.

    Raises:
        ValueError: An argument is out of range, the template does not have exactly one of the two
            fields, or a phrase is no text.
    """

    asks_classes = True

    def __init__(self, template: str = '{classes}', negatives: int | float | str = 1.0,
                 draw: str = 'uniform', max_classes: int | None = None,
                 phrases: Mapping[str, str] | None = None,
                 tree_file: str | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        fields = [field for _, field, _, _ in string.Formatter().parse(template)
                  if field is not None]
        if fields not in (['classes'], ['phrase']):
            raise ValueError("`template` should have one field, '{classes}' or '{phrase}', but got "
                             f'{template!r}')
        if negatives != 'all' and not (isinstance(negatives, int | float)
                                       and 0 <= negatives < math.inf):
            raise ValueError("`negatives` should be a number, a share (float) or 'all', but got "
                             f'{negatives!r}')
        if draw not in DRAWS:
            raise ValueError(f'`draw` should be one of {DRAWS}, but got {draw!r}')
        if max_classes is not None and max_classes < 1:
            raise ValueError(f'`max_classes` should be 1 or more, or None, but got {max_classes}')
        wrong = {name: phrase for name, phrase in (phrases or {}).items()
                 if not isinstance(phrase, str) or not normalize_label(phrase)}
        if wrong:
            raise ValueError(f'`phrases` should be texts that are not empty, but got {wrong}; '
                             'write one, or leave the class out')
        self.template = template
        self.negatives = negatives
        self.draw = draw
        self.max_classes = max_classes
        self.phrases = dict(phrases or {})
        self.tree_file = tree_file

    def read_source(self, source: BaseDataset) -> dict[str, Any]:
        """Read the data set's classes.

        Raises:
            DatasetError: Names of classes (or their ``phrases``) are equal as labels are compared
                (:func:`normalize_label`), ``phrases`` has an unknown class, or see
                :func:`.read_class_annotations`.
        """
        found = read_class_annotations(source, self.tree_file)
        if unknown := [name for name in self.phrases if name not in found.names]:
            raise DatasetError(
                f'`phrases` should be about classes of {source.ann_file or source.data_root}, but '
                f'has {", ".join(map(repr, unknown))}; its classes are '
                f'{show_names(found.names)}', 'wrong classes')
        if clashing := find_clashing_labels(
                self.phrases.get(name, name) for name in found.names):
            shown = '; '.join(' = '.join(map(repr, names)) for names in clashing)
            raise DatasetError(
                f'The classes of {source.ann_file or source.data_root} should differ in more than '
                f'case, spaces and underscores, by which answers are not told apart, but some do '
                f'not: {shown}; rename them (`phrases`) or leave all but one out '
                '(`metainfo.classes`)', 'clashing classes')
        return dict(class_annotations=found, classes=list(found.names) or None)

    def list_questions(self, results: Mapping[str, Any]  # type: ignore[override]
                       ) -> list[dict[str, Any]] | list[DatasetError]:
        """The questions about an image, each about at most ``max_classes`` classes. They may have
        no target. If boxes have no area in the image, a problem for each of them instead.

        Raises:
            DatasetError: There are no instances, or the item does not come from a
                ``QuestionDataset``.
        """
        step = type(self).__name__
        require(results, step, 'instances')
        known: ClassAnnotations | None = results.get('class_annotations')
        if known is None:
            raise missing(results, step, '`class_annotations`',
                          'use it as `questions` of a `QuestionDataset`, which reads them')
        instances: list[dict] = []
        problems: list[DatasetError] = []
        for instance in results['instances']:
            with collecting(problems):
                instances.append(_as_box(instance, known.crowds, results))
        if problems:
            return problems
        names: Mapping[int, str] = dict(enumerate(known.names))
        if 'phrases' in results:
            names, instances = _phrases(results, instances)
        image = results.get('img_id', results['img_path'])
        asked = self._draw(known, image, instances)
        size = self.max_classes or max(len(asked), 1)
        return [self._ask(part.tolist(), names, instances, known.not_exhaustive(image))
                for part in np.array_split(np.array(asked, int), math.ceil(len(asked) / size) or 1)
                if len(part)]

    def _draw(self, known: ClassAnnotations, image: Any,
              instances: Sequence[Mapping[str, Any]]) -> list[int]:
        """The labels to ask for, in order."""
        present = {instance['bbox_label'] for instance in instances}
        targets = {instance['bbox_label'] for instance in instances if not instance['ignore_flag']}
        absent = known.absent(image, present)
        if self.negatives == 'all':
            return sorted({*present, *absent, *known.not_exhaustive(image),
                           *known.left_out.get(image, ())})
        name = str(image) if not isinstance(image, str) else Path(image).stem
        rng = np.random.default_rng((self.seed, crc32(name.encode())))
        number = (math.ceil(self.negatives * max(len(targets), 1))
                  if isinstance(self.negatives, float) else int(self.negatives))
        weights = None
        if self.draw == 'frequency':
            absent = [label for label in absent if known.counts[label]]
            counts = np.array([known.counts[label] for label in absent], float)
            weights = counts / counts.sum() if absent else None
        drawn = rng.choice(absent, min(number, len(absent)), replace=False, p=weights) if (
            absent) else ()
        return [int(label) for label in rng.permutation(sorted({*targets, *map(int, drawn)}))]

    def _shown(self, name: str) -> str:
        """What a question calls a class."""
        return ' '.join(self.phrases.get(name, name).replace('_', ' ').split())

    def _ask(self, labels: Sequence[int], names: Mapping[int, str],
             instances: Iterable[dict[str, Any]], not_exhaustive: frozenset[int]
             ) -> dict[str, Any]:
        """The keys of a question about some labels."""
        shown = [self._shown(names[label]) for label in labels]
        comma = '; ' if any(',' in name for name in shown) else ', '
        phrase = ' and '.join(filter(None, (comma.join(shown[:-1]), shown[-1])))
        text = self.template.format(classes=comma.join(shown), phrase=phrase)
        meant = [instance for instance in instances if instance['bbox_label'] in labels]
        question = dict(question=text, texts=[text], text_index=0, is_sentence=False,
                        classes=tuple(shown), class_labels=tuple(labels), instances=meant,
                        num_targets=sum(not instance['ignore_flag'] for instance in meant))
        if partly := tuple(label for label in labels if label in not_exhaustive):
            question['not_exhaustive'] = partly
        return question


def _as_box(instance: dict, crowds: bool, results: Mapping[str, Any]) -> dict:
    """An instance whose box can be a target; an ignored one with ``crowd``.

    Raises:
        DatasetError: It has no box or label, or its box has no area in the image.
    """
    if 'bbox' not in instance or 'bbox_label' not in instance:
        raise missing(results, QuestionFromClasses.__name__, '`bbox` and `bbox_label` of each '
                      'instance', 'use a data set for detection')
    check_box(instance['bbox'], results.get('height') or math.inf,
              results.get('width') or math.inf, results['img_path'])
    return dict(instance, crowd=crowds) if instance['ignore_flag'] else instance


def _phrases(results: Mapping[str, Any], instances: Sequence[dict]
             ) -> tuple[dict[int, str], list[dict]]:
    """The phrases of a caption by label, and instances with these labels. Phrases that
    :func:`normalize_label` cannot tell apart are one class."""
    phrases: Any = results['phrases']
    texts = {key: phrase['phrase'] for key, phrase in phrases.items()}
    first: dict[str, int] = {}
    for key, text in texts.items():
        first.setdefault(normalize_label(text), key)
    merged = [dict(item, bbox_label=first[normalize_label(texts[item['bbox_label']])])
              for item in instances]
    return {key: texts[key] for key in first.values()}, merged
