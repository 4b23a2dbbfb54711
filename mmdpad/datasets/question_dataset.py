# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turn mmdet's data sets, whose items are images, into questions about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from mmdpad.registry import DATASETS, TRANSFORMS, type_name

from .errors import DatasetError, collecting
from .images import probe_image
from .reasoning_dataset import ReasoningDataset, check_on_bad_entry
from .referring_seg import check_text_mode
from .transforms.loading import LoadInstanceMasks, instance_rle

_COPIED = ('split', 'text_mode', 'split_file')  # settings of a source that say what is asked


@DATASETS.register_module()
class QuestionDataset(ReasoningDataset):
    """One item for each question that a transform can ask about the images of an mmdet data set.

    Items follow the order of the source, and within an image the order of the transform, so an
    evaluation asks every question, the same ones in each run. If the items of a source are videos
    (``images``), each frame is asked about. Items have the keys of :class:`ReasoningDataset`, but
    ``is_sentence`` only if the transform knows it, and ``instances`` in mmdet's form: the targets
    and, with ``ignore_flag=1``, ignored instances that the question could also mean. With
    ``QuestionFromClasses``, ``metainfo['classes']`` has the names of the source's labels.

    For the drawn items (``num_samples``), the header of each image is checked when the data set is
    built, and the run lengths of each mask if the pipeline loads masks.

    Args:
        source: Config of a data set that mmdet can build (its pipeline is not used), or a built
            one. Put wrappers (``ConcatDataset`` ...) around ``QuestionDataset`` instead.
        questions: Config of :class:`mmdpad.datasets.transforms.QuestionFromExpression`,
            ``QuestionFromLabel``, ``QuestionFromPhrase`` or ``QuestionFromClasses``, or a built
            one.
        on_bad_entry: 'error', or 'skip' to leave out all questions about an image with a problem:
            one that is missing, broken or of another size, or has a box without an area or a broken
            mask. The number of these images is logged, and listed by kind as ``bad_entries`` in the
            protocol of results.
        **kwargs: See :class:`ReasoningDataset`. Questions about labels, phrases and classes may
            mean several objects unless the transform prevents it: set ``several_objects=True``,
            also in the model.

    Raises:
        ValueError: The source is a wrapper, or draws its expressions at random
            (``text_mode='random'``).
        ImportError: The source needs a package that is not installed.
        DatasetError: Lists every problem with images and masks.
    """

    def __init__(self, source: dict | BaseDataset, questions: dict | Any,
                 test_mode: bool = False, on_bad_entry: str = 'error', **kwargs: Any) -> None:
        self.on_bad_entry = check_on_bad_entry(on_bad_entry)
        if isinstance(source, Mapping) and not source.keys() & {'dataset', 'datasets'}:
            source = DATASETS.build(dict(dict(source, pipeline=[]),
                                         test_mode=source.get('test_mode', test_mode)))
        if not isinstance(source, BaseDataset):
            kind = type_name(source) if isinstance(source, Mapping) else type(source).__name__
            raise ValueError(f'`source` should be a single data set, but got {kind}; put it around '
                             '`QuestionDataset`s')
        self._source = source
        self._ask = TRANSFORMS.build(questions) if isinstance(questions, Mapping) else questions
        if hasattr(source, 'text_mode'):
            check_text_mode(source.text_mode)
        # What provenance reports and compares.
        self.source = type(source).__name__
        self.questions = {type(self._ask).__name__: {
            name: value for name, value in vars(self._ask).items() if name != 'seed'}}
        for name in _COPIED:
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        super().__init__(test_mode=test_mode, **dict(
            ann_file=source.ann_file, data_root=source.data_root) | kwargs)

    def _join_prefix(self) -> None:
        """Do nothing: the source has already joined its paths."""

    @property
    def where(self) -> str:
        return f'{self.source}, {self.ann_file or self.data_root}'

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield items in the order of the source."""
        known = self._ask.read_source(self._source)
        if self._ask.asks_classes and known['classes']:
            self._metainfo['classes'] = tuple(known['classes'])  # what labels of answers mean
        for number in range(len(self._source)):
            info = self._source.get_data_info(number)
            for image in info.get('images', [info]):
                questions = self._ask.list_questions(image | known)
                if problems := [one for one in questions if isinstance(one, DatasetError)]:
                    yield DatasetError.of_entry(problems)
                    continue
                yield from (dict(
                    {key: image[key] for key in ('height', 'width') if image.get(key) is not None},
                    img_id=image.get('img_id', Path(image['img_path']).stem),
                    img_path=image['img_path'], **question) for question in questions)

    def load_data_list(self) -> list[dict]:
        """Draw the items, then check their images and masks."""
        items = super().load_data_list()
        del self._source
        has_masks = any(isinstance(step, LoadInstanceMasks) for step in self.pipeline.transforms)
        problems: dict[str, list[DatasetError]] = {item['img_path']: [] for item in items}
        shapes: dict[str, tuple[int, int]] = {}  # of the intact images
        for item in {item['img_path']: item for item in items}.values():
            with collecting(problems[item['img_path']]):
                shapes[item['img_path']] = self._check_image(item)
        for item in items if has_masks else ():
            if item['img_path'] in shapes:
                for instance in item.get('instances', ()):
                    with collecting(problems[item['img_path']]):
                        instance_rle(instance, *shapes[item['img_path']], item)
        kept = [item for item in items if not problems[item['img_path']]]
        self.leave_out([DatasetError.of_entry(found) for found in problems.values() if found],
                       kept)
        return kept

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels of an item, for mmengine's ``ClassBalancedDataset``."""
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

    def _check_image(self, item: dict) -> tuple[int, int]:
        path = item['img_path']
        found = probe_image(path, self.max_pixels)
        expected = item.get('height', found[0]), item.get('width', found[1])
        if found != expected:
            raise DatasetError(
                f'{path} should be {expected[1]} x {expected[0]} pixels (width x height) as '
                f'{self.ann_file} says, but is {found[1]} x {found[0]}; use the image that was '
                'annotated, not resized or rotated', 'wrong image size')
        return found

