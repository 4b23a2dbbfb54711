# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Questions about the images of mmdet's data sets, and the instances that each refers to."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset

from mmdpad.registry import TRANSFORMS

from ..class_annotations import label_names
from ..errors import DatasetError
from .required import item_name, missing, require


class QuestionFromInstances(BaseTransform):
    """Base of the transforms that ask about an image from one of mmdet's data sets.

    Items of mmdet's data sets are images with many ``instances``; mmdpad's are questions. In
    :class:`mmdpad.datasets.QuestionDataset` there is an item for each question about an image. In
    the pipeline of another data set, only one question is asked about each image, always the same
    one; metrics refuse items with questions left out. Training skips an image without a question,
    as mmengine does if a pipeline returns None.

    As in mmdet, instances with ``ignore_flag=1`` (crowds, difficult ones) are not targets, and
    neither are those without a polygon of at least three points or with an empty box. A question
    keeps those that it could refer to, for ``ignore_mask``.

    Added keys: ``question``, ``texts`` (a list with the question), ``text_index`` (0),
    ``num_targets``, ``instances`` (those of the question) and, if there are other questions,
    ``not_asked``, their number.

    Args:
        seed: Selects the question about an image, together with the item's ``sample_idx``.

    Attributes:
        asks_classes: Whether answers name the class of each object.
    """

    reads_truth = True
    asks_classes = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def read_source(self, source: BaseDataset) -> dict[str, Any]:
        """What :meth:`list_questions` needs from a data set beyond the keys of its items."""
        return {}

    @abstractmethod
    def list_questions(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All questions about an image that have a target, in a fixed order, each with the keys
        that :meth:`transform` adds."""

    def transform(self, results: dict) -> dict | None:
        """Add the keys of one question; None if there are no questions."""
        questions = self.list_questions(results)
        if not questions:
            return None
        seed = self.seed, results.get('sample_idx', 0)
        results.update(questions[np.random.default_rng(seed).integers(len(questions))])
        if len(questions) > 1:
            results['not_asked'] = len(questions) - 1
        return results


@TRANSFORMS.register_module()
class QuestionFromExpression(QuestionFromInstances):
    """Ask a referring expression, or a caption that refers to all objects in an image.

    Required keys: ``text``, a list with an expression for each of ``instances`` (mmdet's
    ``RefCocoDataset``), or one text for all of them (``MDETRStyleRefCocoDataset``). For an image
    without ``instances`` (``CocoCaptionDataset``), each caption is a question without targets:
    format rewards work, geometric rewards raise an error.

    Args:
        key: The key of the text; 'gt_caption' in ``CocoCaptionDataset``.
        seed: See the base class.
    """

    def __init__(self, key: str = 'text', seed: int = 0) -> None:
        super().__init__(seed)
        self.key = key

    def list_questions(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One question per expression or caption.

        Raises:
            DatasetError: There is no such text, or the numbers of expressions and instances
                differ.
        """
        name = type(self).__name__
        if self.key not in results:
            raise missing(results, name, f'`{self.key}`',
                          'use `QuestionFromLabel` for classes, `QuestionFromPhrase` for phrases '
                          "or `key='gt_caption'` for CocoCaptionDataset")
        texts, instances = results[self.key], results.get('instances')
        if isinstance(texts, str):
            return _questions(results, [(texts, instances)], is_sentence=False)
        if instances is None and self.key != 'text':  # several captions of an image
            return _questions(results, [(text, None) for text in texts], is_sentence=False)
        require(results, name, 'instances')
        instances = results['instances']
        if results.get('custom_entities') or isinstance(texts, Mapping) or len(texts) != len(
                instances):
            raise DatasetError(
                f'`{self.key}` of {item_name(results)} should be one text, or one for each of its '
                f'{len(instances)} instance(s), but is {len(texts)} name(s); use '
                '`QuestionFromLabel` for classes', 'missing key')
        return _questions(results, zip(texts, ([item] for item in instances), strict=True),
                          is_sentence=False)


@TRANSFORMS.register_module()
class QuestionFromLabel(QuestionFromInstances):
    """Ask for all instances of a category; there is a question for each category in an image.

    Required keys: ``instances`` with ``bbox_label``, and the names of the categories: ``classes``
    (from a :class:`mmdpad.datasets.QuestionDataset`), or ``text``, which mmdet's data sets provide
    with ``return_classes=True``, and ``ODVGDataset`` with a ``label_map_file``.

    Args:
        template: The question; ``{label}`` is replaced by the name, with spaces for underscores.
        single_instance: Ask only for categories with exactly one instance in the image and no
            ignored one, for models that answer with a single object (no ``several_objects``).
        classes: Names by label, if the item does not have them.
        seed: See the base class.

    Raises:
        ValueError: The template does not have exactly the field ``{label}``.
    """

    def __init__(self, template: str = '{label}', single_instance: bool = False,
                 classes: Sequence[str] | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        fields = {field for _, field, _, _ in string.Formatter().parse(template)
                  if field is not None}
        if fields != {'label'}:
            raise ValueError("`template` should have the field '{label}' and no other, but got "
                             f'{template!r}')
        self.template = template
        self.single_instance = single_instance
        self.classes = classes

    def read_source(self, source: BaseDataset) -> dict[str, Any]:
        """The names of the data set's labels."""
        return dict(classes=label_names(source))

    def list_questions(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One question per category.

        Raises:
            DatasetError: There are no instances, labels or names.
        """
        name = type(self).__name__
        require(results, name, 'instances')
        by_label: dict[int, list[dict]] = {}
        for instance in results['instances']:
            if 'bbox_label' not in instance:
                raise missing(results, name, '`bbox_label` of each instance',
                              'use `QuestionFromExpression` for data without labels')
            by_label.setdefault(int(instance['bbox_label']), []).append(instance)
        return _questions(results, [
            (self.template.format(label=self._name(results, label)), meant)
            for label, meant in sorted(by_label.items())
            if (not self.single_instance or len(meant) == 1)
            and not all(instance['ignore_flag'] for instance in meant)])

    def _name(self, results: Mapping[str, Any], label: int) -> str:
        names: Any = self.classes or results.get('classes')
        if not names and 'sent_ids' not in results:  # with them `text` has only some names
            names = results.get('text')
        try:
            found = (names or {})[str(label) if isinstance(names, Mapping) else label]
        except LookupError:
            raise missing(results, type(self).__name__, f'the name of the label {label}',
                          'set `return_classes=True` on the data set, or `classes=[...]` '
                          'here') from None
        return found.replace('_', ' ')


@TRANSFORMS.register_module()
class QuestionFromPhrase(QuestionFromInstances):
    """Ask a phrase of a caption; it refers to the instances that it is grounded in.

    Required keys: ``instances`` and ``phrases``: in ``ODVGDataset`` for visual grounding, a dict of
    dicts with ``phrase``, by ``bbox_label``; in ``Flickr30kDataset``, a list, and ``phrase_ids``
    has the index of a phrase for each instance.

    Args:
        seed: See the base class.
    """

    def list_questions(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One question per distinct phrase.

        Raises:
            DatasetError: There are no phrases or instances.
        """
        name = type(self).__name__
        require(results, name, 'instances')
        if 'phrases' not in results:
            raise missing(results, name, '`phrases`',
                          'use `QuestionFromLabel` for classes or `QuestionFromExpression` for '
                          'expressions and entire captions')
        phrases, instances = results['phrases'], results['instances']
        owners = results.get('phrase_ids', [item['bbox_label'] for item in instances])
        if isinstance(phrases, Mapping):
            texts = {owner: phrase['phrase'] for owner, phrase in phrases.items()}
        else:
            texts = dict(enumerate(phrases))
        # The same text may occur several times, for several objects.
        grounded: dict[str, list[dict]] = {text: [] for _, text in sorted(texts.items())}
        for owner, instance in zip(owners, instances, strict=True):
            if owner not in texts:
                raise missing(results, name, f'the phrase {owner!r} of an instance in `phrases`',
                              'correct the annotation')
            grounded[texts[owner]].append(instance)
        return _questions(results, grounded.items(), is_sentence=False)


def _questions(results: Mapping[str, Any], meant: Iterable[tuple[str, list[dict] | None]],
               **about: Any) -> list[dict[str, Any]]:
    """The keys of an item's questions, from their texts and instances (None: nothing is marked).
    Questions that refer only to ignored instances are left out."""
    questions = []
    for text, instances in meant:
        if not text.strip(' .'):
            raise DatasetError(f'A question about {item_name(results)} should contain text, but '
                               f'is {text!r}; write some, or remove it', 'empty question')
        question = dict(about, question=text, texts=[text], text_index=0)
        if instances is not None:
            instances = [_as_mmdet_reads(instance) for instance in instances]
            question.update(instances=instances,
                            num_targets=sum(not item['ignore_flag'] for item in instances))
        if question.get('num_targets', 1):
            questions.append(question)
    return questions


def _as_mmdet_reads(instance: dict) -> dict:
    """An instance without the polygons that mmdet's ``LoadAnnotations`` drops. If none are left, or
    its RLE is incomplete, or its box is empty, it is ignored."""
    mask = instance.get('mask')
    if 'bbox' in instance:
        x1, y1, x2, y2 = instance['bbox']
        if not (x1 < x2 and y1 < y2):
            return dict(instance, ignore_flag=1)
    if isinstance(mask, Mapping) and not (mask.get('size') is not None
                                          and isinstance(mask.get('counts'), list | str | bytes)):
        mask = None
    elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
        mask = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0] or None
    if mask is instance.get('mask'):
        return instance
    if mask is None:
        instance = dict(instance, ignore_flag=1)
        del instance['mask']
        return instance
    return dict(instance, mask=mask)
