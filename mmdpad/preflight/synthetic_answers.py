# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write synthetic questions with answers in the format of any supported data set of these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]
ANSWER = 'yes'
"""The answer to every question."""
_QUESTION = 'Is there a square?'


@dataclass(frozen=True)
class Scene:
    """A synthetic image with one object.

    Attributes:
        size: (width, height) in pixels.
        box: The object's (x1, y1, x2, y2) in pixels, x2 and y2 outer edges.
        save: Writes the image of a number to a path.
        number: Of images.
    """

    size: tuple[int, int]
    box: Sequence[int]
    save: Callable[[int, Path], None]
    number: int

    def write(self, folder: Path, config: Config, name: str) -> None:
        """Write all images; ``name`` of a file has ``{}`` for the number."""
        images = folder / (config.get('data_prefix') or {}).get('img_path', '')
        for number in range(self.number):
            path = images / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.save(number, path)


def _write_json(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_lines(folder: Path, name: str, lines: Sequence[Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(map(json.dumps, lines)))


def _gqa(config: Config, folder: Path, scene: Scene) -> Config:
    scene.write(folder, config, '{}.jpg')
    x1, y1, x2, y2 = scene.box
    width, height = scene.size
    numbers = [str(number) for number in range(scene.number)]
    _write_json(folder, config['ann_file'], {
        f'q{number}': dict(question=_QUESTION, imageId=number, answer=ANSWER,
                           annotations=dict(answer={}, question={'0': '1'}, fullAnswer={}),
                           types=dict(semantic='obj')) for number in numbers})
    if name := config.get('scene_graph_file'):
        found = dict(name='square', x=x1, y=y1, w=x2 - x1, h=y2 - y1)
        _write_json(folder, name, {number: dict(width=width, height=height, objects={'1': found})
                                   for number in numbers})
    return dict(data_root=str(folder))


def _vqa(config: Config, folder: Path, scene: Scene) -> Config:
    scene.write(folder, config, '{}.jpg')
    numbers = range(scene.number)
    _write_json(folder, config['question_file'], dict(questions=[
        dict(question_id=number, image_id=number, question=_QUESTION) for number in numbers]))
    _write_json(folder, config['ann_file'], dict(annotations=[
        dict(question_id=number, answer_type='yes/no', answers=[dict(answer=ANSWER)] * 10)
        for number in numbers]))
    return dict(data_root=str(folder), image_name='{image_id}.jpg')


def _text_vqa(config: Config, folder: Path, scene: Scene) -> Config:
    scene.write(folder, config, '{}.jpg')
    _write_json(folder, config['ann_file'], dict(data=[
        dict(question_id=number, image_id=str(number), question=_QUESTION, answers=[ANSWER] * 10)
        for number in range(scene.number)]))
    return dict(data_root=str(folder))


def _visual7w(config: Config, folder: Path, scene: Scene) -> Config:
    scene.write(folder, config, '{}.jpg')
    _write_json(folder, config['ann_file'], dict(images=[
        dict(filename=f'{number}.jpg', split=config['split'], qa_pairs=[
            dict(qa_id=number, question=_QUESTION, type='what', answer=ANSWER,
                 multiple_choices=['no', 'maybe', 'never'])]) for number in range(scene.number)]))
    return dict(data_root=str(folder))


def _visual_cot(config: Config, folder: Path, scene: Scene) -> Config:
    scene.write(folder, config, '{}.jpg')
    width, height = scene.size
    _write_lines(folder, config['ann_file'], [
        dict(question=_QUESTION, answer=ANSWER, image=f'{number}.jpg', width=width, height=height,
             bboxs=[list(scene.box)], dataset='synthetic', split=config.get('split') or 'train')
        for number in range(scene.number)])
    return dict(data_root=str(folder))


def _answer_lines(config: Config, folder: Path, scene: Scene) -> Config:
    """Write the images where the data set looks: below its prefix, or beside its file."""
    name = Path(config['ann_file']).name
    scene.write(folder, config, '{}.png')
    _write_lines(folder, name, [
        dict(id=number, image=f'{number}.png', texts=[_QUESTION], answers=[ANSWER],
             evidence=[list(scene.box)], think='it is a square.', caption='a square')
        for number in range(scene.number)])
    return dict(data_root=str(folder), ann_file=name)


ANSWER_WRITERS: Mapping[str, Callable[[Config, Path, Scene], Config]] = dict(
    GQADataset=_gqa, VQADataset=_vqa, TextVQADataset=_text_vqa, Visual7WDataset=_visual7w,
    VisualCoTDataset=_visual_cot, AnswerLinesDataset=_answer_lines)
"""Name of a class -> its writer, which gives the config entries that point the data set to the
samples."""
