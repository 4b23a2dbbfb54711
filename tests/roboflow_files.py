# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders as Roboflow exports them, with the traps that published ones have."""
import json
from pathlib import Path

from PIL import Image

SIZE = (40, 20)  # width, height
BOATS = dict(
    # Category 0 is the name of the project; no annotation has it.
    categories=[dict(id=0, name='boats', supercategory='none'),
                dict(id=1, name='dock', supercategory='boats'),
                dict(id=2, name='boat', supercategory='boats')],
    images=['IMG 1_jpg.rf.0a1b.jpg', 'no boat.jpg'],
    # id, index of the image, category, (x, y, width, height)
    annotations=[(0, 0, 2, (4, 2, 10, 6)), (1, 0, 1, (20, 0, 20, 10))])
CELLS = dict(
    # The project has the name of a class, and a class is there twice.
    categories=[dict(id=0, name='cell', supercategory='none'),
                dict(id=1, name='CoW', supercategory='cell'),
                dict(id=2, name='cell', supercategory='cell'),
                dict(id=3, name='CoW', supercategory='cell')],
    images=['a.jpg', 'b.jpg'],
    annotations=[(1, 0, 1, (0, 0, 10, 10)), (2, 0, 3, (20, 0, 10, 10)), (3, 1, 2, (5, 5, 10, 10))])


def write_export(folder: Path, content: dict, split: str = 'valid',
                 name: str = '_annotations.coco.json') -> Path:
    """Write one split of an export; returns its annotation file."""
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    images = [dict(id=number, file_name=file, width=SIZE[0], height=SIZE[1])
              for number, file in enumerate(content['images'])]
    for file in content['images']:
        Image.new('RGB', SIZE).save(place / file)
    annotations = [
        dict(id=number, image_id=image, category_id=category, bbox=list(box), iscrowd=0,
             segmentation=[], area=box[2] * box[3])
        for number, image, category, box in content['annotations']]
    path = place / name
    path.write_text(json.dumps(dict(info={}, categories=content['categories'], images=images,
                                    annotations=annotations)))
    return path
