# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""ReasonSeg and data sets in its folder layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmdpad.registry import DATASETS

from .annotation_fields import ask_texts, check_inside, check_questions, check_texts_mode
from .errors import DatasetError, collecting
from .images import probe_image
from .reason_seg_annotation import draw_target, parse_annotation
from .reasoning_dataset import ReasoningDataset

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')


@DATASETS.register_module()
class ReasonSegDataset(ReasoningDataset):
    """Images with a question and a mask, in the published layout of ReasonSeg.

    ``<data_root>/<split>/`` contains images (``.jpg``, ``.jpeg``, ``.png``), each with a JSON file
    of the same name (:mod:`.reason_seg_annotation`). Items are sorted by file name, so every
    machine sees the same list. An item also has ``ann_path`` and, if the annotation has them,
    ``other_boxes``, ``think``, ``caption`` and ``response``. Its ``img_id`` is the file name
    without suffix, followed by '#' and ``text_index`` if the image has several items.

    Image headers, annotations and masks are checked when the data set is built; pixels are decoded
    later. Errors are: an image without an annotation or the reverse, two images of the same name,
    an unreadable image or JSON file, an empty question, and a target or one of ``other_boxes`` that
    lies outside its image. An annotation may have no target (as some of the published ones do),
    see :class:`ReasoningDataset`.

    Args:
        data_root: Folder that contains the splits.
        split: Subfolder to read; ReasonSeg has ``train``, ``val`` and ``test``.
        texts: ``'first'`` asks the first text of each annotation (the published protocol),
            ``'all'`` makes one item per text.
        **kwargs: See :class:`ReasoningDataset`.
    """

    def __init__(self, data_root: str, split: str = 'train', texts: str = 'first',
                 **kwargs: Any) -> None:
        self.split = split
        self.texts = check_texts_mode(texts)
        super().__init__(data_root=str(data_root), **kwargs)

    @property
    def where(self) -> str:
        return str(Path(self.data_root) / self.split)

    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield items in the order of file names."""
        images, annotations, problems = _list_pairs(self._find_folder())
        yield from problems
        for name in sorted(images.keys() & annotations.keys()):
            yield from self._load_pair(images[name], annotations[name])

    def _find_folder(self) -> Path:
        root = Path(self.data_root)
        if not root.is_dir():
            raise DatasetError(f'`data_root` should be a folder with ReasonSeg\'s splits, but '
                               f'{root} is not a folder; download the data or correct the path',
                               'missing folder')
        folder = root / self.split
        if not folder.is_dir():
            found = ', '.join(sorted(p.name for p in root.iterdir() if p.is_dir())) or 'none'
            raise DatasetError(f'`split` should be a folder in {root}, but got {self.split!r}; '
                               f'folders there: {found}', 'missing split')
        return folder

    def _load_pair(self, img_path: Path, ann_path: Path) -> Sequence[dict | DatasetError]:
        """Check an image and its annotation; returns its items, or the problems."""
        problems: list[DatasetError] = []
        with collecting(problems):
            height, width = probe_image(img_path, self.max_pixels)
        with collecting(problems):
            annotation = parse_annotation(ann_path)
        if problems:
            return problems
        with collecting(problems):
            check_questions(annotation.texts, 'text', ann_path)
        with collecting(problems):
            target, _ = draw_target(annotation, height, width, ann_path)
        optional: dict[str, Any] = dict(annotation.answer)
        if annotation.other_boxes is not None:
            optional['other_boxes'] = annotation.other_boxes
            with collecting(problems):
                check_inside(annotation.other_boxes, ann_path, height, width)
        if problems:
            return problems
        item = dict(
            img_id=img_path.stem,
            img_path=str(img_path),
            ann_path=str(ann_path),
            is_sentence=annotation.is_sentence,
            num_targets=int(target.any()),
            **optional)
        return ask_texts(item, annotation.texts, self.texts)


def _list_pairs(
        folder: Path) -> tuple[dict[str, Path], dict[str, Path], list[DatasetError]]:
    """Images and annotations of a folder by name without suffix, and a problem for each unpaired
    file.

    Hidden files and files of other kinds are ignored.
    """
    images: dict[str, Path] = {}
    annotations: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith('.') or suffix not in (*IMAGE_SUFFIXES, '.json'):
            continue
        files = annotations if suffix == '.json' else images
        if path.stem in files:
            problems.append(DatasetError(f'{path} has the same name as {files[path.stem]}; rename '
                                         'or remove one', 'duplicate id'))
        files[path.stem] = path
    problems += [
        DatasetError(f'{images[name]} has no annotation {name}.json next to it; add it or remove '
                     'the image', 'missing annotation')
        for name in sorted(images.keys() - annotations.keys())
    ]
    problems += [
        DatasetError(f'{annotations[name]} has no image ('
                     f'{", ".join(name + s for s in IMAGE_SUFFIXES)}) next to it; add it or remove '
                     'the annotation', 'missing image')
        for name in sorted(annotations.keys() - images.keys())
    ]
    if not images and not annotations:
        problems.append(DatasetError(
            f'{folder} contains no images ({", ".join(IMAGE_SUFFIXES)}) with annotations (.json); '
            'download the data or correct `data_root`', 'empty split'))
    return images, annotations, problems
