# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Config entries for an evaluation of detection on many small data sets, such as ODinW."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

_FILE = 'annotations_without_background.json'
FILES = (_FILE, '_annotations.coco.json')
"""Annotation files that Roboflow's exports and ODinW have, the preferred one first."""
ODINW13 = {name: f'{place}{_FILE}' for name, place in dict(
    AerialMaritimeDrone='AerialMaritimeDrone/large/valid/',
    Aquarium='Aquarium/Aquarium Combined.v2-raw-1024.coco/valid/',
    CottontailRabbits='CottontailRabbits/valid/',
    EgoHands='EgoHands/generic/valid/',
    NorthAmericaMushrooms='NorthAmericaMushrooms/North American Mushrooms.v1-416x416.coco/valid/',
    Packages='Packages/Raw/valid/',
    PascalVOC='PascalVOC/valid/',
    pistols='pistols/export/val_',
    pothole='pothole/valid/',
    Raccoon='Raccoon/Raccoon.v2-raw.coco/valid/',
    ShellfishOpenImages='ShellfishOpenImages/raw/valid/',
    thermalDogsAndPeople='thermalDogsAndPeople/valid/',
    VehiclesOpenImages='VehiclesOpenImages/416x416/valid/').items()}
"""Name of each of the 13 data sets of ODinW-13 -> its annotation file below the root, as in mmdet's
configs/grounding_dino/odinw."""
PIPELINE = (
    dict(type='LoadReasoningImage'),
    dict(type='ModelImageResize', size=(840, 840)),
    dict(type='TargetsFromBoxes'),
    dict(type='PackReasoningInputs'))


def detection_folders(root: str, files: Mapping[str, str] | None = None, split: str = 'valid',
                      phrases: Mapping[str, Mapping[str, str]] | None = None,
                      max_classes: int | None = 20, task: str | None = 'detection',
                      pipeline: Sequence[dict] = PIPELINE) -> tuple[dict, dict]:
    """The data set and the evaluator of a test on all detection data sets below a folder: every
    image is asked for all classes of its data set (:class:`.RoboflowDataset`), and
    :class:`mmdpad.evaluation.MeanDatasetsEvaluator` computes ``DetectionMetric`` and ``CocoMetric``
    of each data set, and their means.

    For a config, after ``_base_``::

        from mmdpad.datasets.detection_folders import detection_folders
        dataset, test_evaluator = detection_folders('data/mine')
        test_dataloader = dict(dataset=dataset)

    Args:
        root: The folder.
        files: Name of each data set -> its annotation file, relative to ``root``, in the folder of
            its images; None for all that :func:`find_detection_files` finds.
        split: The folders to look for.
        phrases: Name of a data set -> its classes -> what questions call them, see
            :class:`.QuestionFromClasses`.
        max_classes: Most classes in a question.
        task: Name of the questions' task in the model.
        pipeline: Of each data set.

    Raises:
        FileNotFoundError: There are no such files.
        ValueError: ``phrases`` names an unknown data set.
    """
    files = find_detection_files(root, split) if files is None else files
    if unknown := sorted((phrases or {}).keys() - files.keys()):
        raise ValueError(f'`phrases` should be about the data sets {", ".join(files)}, but has '
                         f'{", ".join(unknown)}; correct the name')
    datasets, metrics = [], []
    for name, file in files.items():
        of_name = (phrases or {}).get(name)
        folder = PurePosixPath(file).parent
        datasets.append(dict(
            type='QuestionDataset', task=task, several_objects=True, test_mode=True,
            source=dict(type='RoboflowDataset', data_root=str(root), ann_file=file,
                        data_prefix=dict(img=str(folder))),
            questions=dict(type='QuestionFromClasses', negatives='all', max_classes=max_classes,
                           **dict(phrases=dict(of_name)) if of_name else {}),
            pipeline=[dict(step) for step in pipeline]))
        metrics.append([dict(type='DetectionMetric'),
                        dict(type='CocoMetric', ann_file=str(Path(root) / file))])
    return (dict(_delete_=True, type='ConcatDataset', datasets=datasets),
            dict(_delete_=True, type='MeanDatasetsEvaluator', dataset_prefixes=list(files),
                 metrics=metrics))


def find_detection_files(root: str, split: str = 'valid') -> dict[str, str]:
    """Find the data sets below a folder.

    Args:
        root: A folder with one or several exports of Roboflow, or links to them, at any depth.
        split: Name of the folders with images and an annotation file, one of :data:`FILES`.

    Returns:
        Name of each data set, the path of its export below ``root`` (for ``root`` itself, its
        name) -> annotation file relative to ``root``, both with '/'.

    Raises:
        FileNotFoundError: There are none.
    """
    found: dict[str, str] = {}
    for file in FILES:
        for path in _find(root, f'**/{glob.escape(split)}/{file}'):
            name = path.parents[1].as_posix()
            found.setdefault(Path(root).resolve().name if name == '.' else name, path.as_posix())
    if not found:
        others = sorted({Path(root, path).parent.name for file in FILES
                         for path in _find(root, f'**/{file}')})
        raise FileNotFoundError(
            f'{root!r} should have folders {split!r} with {" or ".join(FILES)} in them, but has '
            f'none{f"; other folders with such files: {others}" if others else ""}; correct the '
            'path, or set `split`')
    return dict(sorted(found.items()))


def _find(root: str, pattern: str) -> list[Path]:
    """The files below a folder, relative to it, each once, by its shortest path. Links to folders
    are followed, which pathlib does not do."""
    found: dict[Path, Path] = {}
    for path in sorted(map(Path, glob.glob(pattern, root_dir=root, recursive=True)),
                       key=lambda path: (len(path.parts), path)):
        found.setdefault(Path(root, path).resolve(), path)
    return list(found.values())
