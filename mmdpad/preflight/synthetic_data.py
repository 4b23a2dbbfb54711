# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Write a few synthetic samples in the format of any supported data set."""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmdpad.datasets.conversion import WRITERS, Record
from mmdpad.datasets.conversion.coco import CATEGORY
from mmdpad.datasets.conversion.image_files import ImageFiles
from mmdpad.datasets.tables import import_pyarrow
from mmdpad.prompts.template import OBJECTS_KEYS
from mmdpad.registry import DATASETS, resolve

from .synthetic_answers import ANSWER_WRITERS, Scene

SIZE = (160, 120)
"""(width, height) of every image, in pixels."""
TARGET = (0.25, 0.25, 0.625, 0.75)
"""Box (x1, y1, x2, y2) of the target in every image, as fractions of its width and height."""
COLORS = ('red', 'green')
_ODVG_CLASS = 'square'
_OTHER = (0.75, 0.1, 0.9, 0.4)  # a second object, for questions about several

Config = dict[str, Any]


def write_synthetic_data(config: Config, folder: Path) -> Config | None:
    """Write two samples in the format that a data set reads.

    Each image shows a square at :data:`TARGET` on gray, in a different color. A data set whose
    questions may refer to any number of objects gets two more samples: one with two objects, one
    with none.

    Args:
        config: The config of the data set. File names below its ``data_root`` stay the same.
        folder: Where to write; should be empty or missing.

    Returns:
        The config entries that point the data set to the samples, or None if its class is unknown.
    """
    write = _find_writer(resolve(config, DATASETS))
    if write is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return write(config, folder)


def first_class(config: Config) -> str | None:
    """The class of all synthetic objects of a data set, which is its first; None if its objects
    have no classes."""
    kind, source = resolve(config, DATASETS), config.get('source')
    if source is not None:
        return first_class(source)
    if (writer := _find_writer(kind)) is _odvg:
        return _ODVG_CLASS if config.get('label_map_file') else None
    return _class_names(config)[0] if writer in (_coco, _lvis) else None


def _class_names(config: Config) -> Sequence[str]:
    names = ((config.get('metainfo') or {}).get('classes')
             or resolve(config, DATASETS).METAINFO.get('classes') or (CATEGORY['name'], ))
    return [names] if isinstance(names, str) else names


def _find_writer(kind: Any) -> Callable[[Config, Path], Config | None] | None:
    """Find the writer for this class, or for the nearest of its base classes."""
    for base in getattr(kind, '__mro__', ()):
        if base.__name__ in _WRITERS:
            return _WRITERS[base.__name__]
    return None


def _place(box: tuple[float, ...], size: tuple[int, int]) -> list[int]:
    """Convert a box from fractions to pixels, both ends inclusive."""
    width, height = size
    x1, y1, x2, y2 = box
    return [round(x1 * width), round(y1 * height), round(x2 * width) - 1, round(y2 * height) - 1]


def _draw_image(color: str, size: tuple[int, int] = SIZE) -> Image.Image:
    image = Image.new('RGB', size, 'gray')
    ImageDraw.Draw(image).rectangle(_place(TARGET, size), fill=color)
    ImageDraw.Draw(image).rectangle(_place(_OTHER, size), fill='black')
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, 'PNG')
    return buffer.getvalue()


def _mask(box: tuple[float, ...]) -> np.ndarray:
    x1, y1, x2, y2 = _place(box, SIZE)
    mask = np.zeros(SIZE[::-1], bool)
    mask[y1:y2 + 1, x1:x2 + 1] = True
    return mask


def _records(several: bool, answered: bool) -> list[Record]:
    """Make the samples; if ``answered``, each has a reasoning text and a caption."""
    meant = [(color, f'the {color} square', [TARGET]) for color in COLORS]
    if several:
        meant += [('red', 'every object', [TARGET, _OTHER]), ('red', 'a green bird', [])]
    records = []
    for number, (color, question, boxes) in enumerate(meant):
        masks = np.array([_mask(box) for box in boxes]).reshape(-1, *SIZE[::-1])
        extras = dict(think=f'it is {question}.', caption=f'a {color} square')
        records.append(Record(
            id=f'synthetic_{number}', where=f'synthetic sample {number}',
            image=_png(_draw_image(color)), texts=(question, ), is_sentence=False,
            masks=masks.astype(bool), ignore=np.zeros(SIZE[::-1], bool),
            extras=extras if answered else {}))
    return records


def _write(kind: str, folder: Path, images: Path, split: str, several: bool = False,
           answered: bool = False) -> None:
    """Write the samples as the converter does, with the images below ``images``."""
    writer = WRITERS[kind](folder, ImageFiles(images, images, copy=True))
    images.mkdir(parents=True, exist_ok=True)
    for record in _records(several, answered):
        writer.write(record, split)
    writer.close()


def _reason_seg(config: Config, folder: Path) -> Config:
    _write('reasonseg', folder, folder, config.get('split', 'train'), answered=True)
    return dict(data_root=str(folder))


def _referring(config: Config, folder: Path) -> Config:
    images = folder / (config.get('data_prefix') or {}).get('img_path', '')
    several = bool(config.get('several_objects'))
    _write('coco', folder, images, config.get('split', 'train'), several)
    refs = json.loads((folder / 'refs.json').read_text())
    instances, split_file = folder / config['ann_file'], folder / config['split_file']
    for path in (instances, split_file):
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / 'instances.json').rename(instances)
    if split_file.suffix == '.json':
        (folder / 'refs.json').rename(split_file)
    else:
        split_file.write_bytes(pickle.dumps(refs))
    return dict(data_root=str(folder))


def _json_lines(config: Config, folder: Path) -> Config:
    name = Path(config['ann_file']).name
    prefix = (config.get('data_prefix') or {}).get('img_path', '')
    _write('jsonl', folder, folder / prefix, 'synthetic', bool(config.get('several_objects')),
           answered=True)
    (folder / 'synthetic.jsonl').rename(folder / name)
    return dict(data_root=str(folder), ann_file=name)


def _mask_folder(config: Config, folder: Path) -> Config:
    prefix = dict(img_path='images', mask_path='masks') | dict(config.get('data_prefix') or {})
    for name in prefix.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for record in _records(several=False, answered=False):
        (folder / prefix['img_path'] / f'{record.id}.png').write_bytes(record.image)
        Image.fromarray(record.masks[0]).save(folder / prefix['mask_path'] / f'{record.id}.png')
        rows.append(dict(image=f'{record.id}.png', question=record.texts[0]))
    name = Path(config.get('ann_file', 'questions.csv')).name
    with open(folder / name, 'w', newline='') as file:
        if name.endswith('.json'):
            json.dump(rows, file)
        else:
            table = csv.DictWriter(file, ('image', 'question'))
            table.writeheader()
            table.writerows(rows)
    return dict(data_root=str(folder), ann_file=name)


def _seg_zero_eval(config: Config, folder: Path) -> Config:
    _write('parquet', folder, folder, config.get('split', 'test'))
    return dict(data_root=str(folder))


def _seg_zero(config: Config, folder: Path) -> Config:
    pyarrow = import_pyarrow()
    size = tuple(config.get('solution_size', (840, 840)))
    rows = []
    for number, color in enumerate(COLORS):
        box = _place(TARGET, size)
        x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
        solution = (f'<box>({box[0]},{box[1]}),({box[2]},{box[3]})</box>'
                    f'<points>({x},{y}),({x},{y})</points>')
        if config.get('several_objects'):
            solution = json.dumps([dict(zip(OBJECTS_KEYS, (box, [x, y]), strict=True))])
        rows.append(dict(id=f'synthetic_{number}', problem=f'the {color} square', solution=solution,
                         image=dict(bytes=_png(_draw_image(color, size)), path=None)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows),
                                folder / f'{config.get("split", "train")}.parquet')
    return dict(data_root=str(folder))


def _coco(config: Config, folder: Path) -> Config:
    """Write instances in COCO format, all of the data set's first class."""
    prefix = (config.get('data_prefix') or {}).get('img', '')
    _write('coco', folder, folder / prefix, 'train')
    instances = json.loads((folder / 'instances.json').read_text())
    instances['categories'] = [dict(id=number, name=name) for number, name in
                               enumerate(_class_names(config), start=1)]
    path = folder / config['ann_file']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(instances))
    return dict(data_root=str(folder))


def _lvis(config: Config, folder: Path) -> Config:
    """Write instances as LVIS v1 does: with an image's URL, and what is known to be absent."""
    changes = _coco(config, folder)
    path = folder / config['ann_file']
    content = json.loads(path.read_text())
    for image in content['images']:
        image.update(coco_url=f'http://images.cocodataset.org/{image["file_name"]}',
                     neg_category_ids=[category['id'] for category in content['categories'][1:3]],
                     not_exhaustive_category_ids=[])
    for category in content['categories']:
        category['frequency'] = 'f'
    path.write_text(json.dumps(content))
    return changes


def _odvg(config: Config, folder: Path) -> Config:
    """Write lines with one box each: of a phrase, or, with a label map, of the first label."""
    prefix = folder / (config.get('data_prefix') or {}).get('img', '')
    prefix.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, color in enumerate(COLORS):
        _draw_image(color).save(prefix / f'synthetic_{number}.png')
        x1, y1, x2, y2 = _place(TARGET, SIZE)
        box, caption = [x1, y1, x2 + 1, y2 + 1], f'the {color} square'
        region = dict(bbox=box, phrase=caption, tokens_positive=[[0, len(caption)]])
        lines.append(dict(
            filename=f'synthetic_{number}.png', height=SIZE[1], width=SIZE[0],
            grounding=dict(caption=caption, regions=[region]),
            detection=dict(instances=[dict(bbox=box, label=0, category=_ODVG_CLASS)])))
    path = folder / config['ann_file']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(map(json.dumps, lines)))
    if name := config.get('label_map_file'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({'0': _ODVG_CLASS}))
    return dict(data_root=str(folder))


def _questions(config: Config, folder: Path) -> Config | None:
    """Write samples for the source of a ``QuestionDataset``."""
    changes = write_synthetic_data(config['source'], folder)
    return changes and dict(source=dict(config['source'], **changes))


def _with_scene(write: Callable[[Config, Path, Scene], Config]
                ) -> Callable[[Config, Path], Config | None]:
    """A writer of questions with answers in words."""
    x1, y1, x2, y2 = _place(TARGET, SIZE)
    scene = Scene(SIZE, (x1, y1, x2 + 1, y2 + 1),
                  lambda number, path: _draw_image(COLORS[number]).save(path), len(COLORS))
    return lambda config, folder: write(config, folder, scene)


# Name of a class -> its writer. A subclass uses the writer of its base.
_WRITERS: dict[str, Callable[[Config, Path], Config | None]] = dict(
    ReasonSegDataset=_reason_seg, ReferringSegDataset=_referring, RefCocoDataset=_referring,
    JsonLinesDataset=_json_lines, MaskFolderDataset=_mask_folder,
    SegZeroEvalDataset=_seg_zero_eval, SegZeroDataset=_seg_zero, CocoDataset=_coco,
    LVISV1Dataset=_lvis, ODVGDataset=_odvg, QuestionDataset=_questions,
    **{name: _with_scene(write) for name, write in ANSWER_WRITERS.items()})
