# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Make the prepared copies of this folder, miniatures of those that Seg-Zero, VisionReasoner and
DPAD publish, in the forms that users have them in.

    pip install datasets
    python tests/data/seg_zero/make_seg_zero.py tests/data/seg_zero

The `datasets` library itself writes them, so they are of the real formats byte for byte. The
images are rectangles on grey, whose boxes are known.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, Sequence, Value
from PIL import Image, ImageDraw

SIDE = 28  # pixels of a training image, 840 in the published copies
COLOURS = ('red', 'green', 'blue')
# Boxes (x1, y1, x2, y2) of the rectangles in a training image, both ends inclusive.
ONE = [[[2, 3, 9, 12]], [[14, 5, 25, 9]], [[0, 20, 27, 27]], [[20, 0, 24, 18]], [[5, 5, 6, 6]]]
SEVERAL = [[[2, 3, 9, 12], [14, 5, 25, 9]], [[0, 20, 27, 27]],
           [[1, 1, 4, 8], [10, 1, 14, 8], [20, 1, 26, 8]], [[3, 15, 8, 25], [15, 15, 20, 25]]]
TRAINING = Features({
    'id': Value('string'), 'problem': Value('string'), 'solution': Value('string'),
    'image': datasets.Image(), 'img_height': Value('int64'), 'img_width': Value('int64')})
EVALUATION = Features({
    'image': datasets.Image(), 'text': Value('string'),
    'mask': Sequence(Sequence(Value('bool'))), 'image_id': Value('string'),
    'ann_id': Value('string'), 'img_height': Value('int64'), 'img_width': Value('int64')})


def draw(size: tuple[int, int], boxes: list[list[int]]) -> Image.Image:
    """An image of ``size`` (width, height): rectangles in the order of ``COLOURS``."""
    image = Image.new('RGB', size, 'grey')
    for box, colour in zip(boxes, COLOURS, strict=False):
        ImageDraw.Draw(image).rectangle(box, fill=colour)
    return image


def scaled(numbers: list[int]) -> list[int]:
    """Pixels of a training image -> of the 840 x 840 frame."""
    return [number * 840 // SIDE for number in numbers]


def one_object_solution(boxes: list[list[int]]) -> str:
    """Two points of a box at a third and two thirds of its diagonal, as text."""
    x1, y1, x2, y2 = scaled(boxes[0])
    points = [(x1 + i * (x2 - x1) // 3, y1 + i * (y2 - y1) // 3) for i in (1, 2)]
    return (f'<box>({x1},{y1}),({x2},{y2})</box>'
            f'<points>{",".join(f"({x},{y})" for x, y in points)}</points>')


def objects_solution(boxes: list[list[int]]) -> str:
    """Boxes with their centres, as a JSON list."""
    return json.dumps([
        dict(bbox_2d=[x1, y1, x2, y2], point_2d=[(x1 + x2) // 2, (y1 + y2) // 2])
        for x1, y1, x2, y2 in map(scaled, boxes)])


def training_copy(drawn: list[list[list[int]]], solve) -> Dataset:
    """One row an image; images are stored as PNG."""
    return Dataset.from_list([
        dict(id='refcocog_' + '_'.join(str(10 * i + k) for k in range(len(boxes))),
             problem=' and '.join(f'The {COLOURS[k]} one of {i}' for k in range(len(boxes))) + '.',
             solution=solve(boxes), image=draw((SIDE, SIDE), boxes), img_height=426, img_width=640)
        for i, boxes in enumerate(drawn)], features=TRAINING)


def evaluation_row(name: str, image: Image.Image, boxes: list[list[int]], **save) -> dict:
    """A row whose mask are the pixels of the boxes, in the image as viewers show it."""
    width, height = image.size
    mask = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2 + 1, x1:x2 + 1] = True
    if 'exif' in save:  # stored lying on its side
        image = image.rotate(90, expand=True)
    file = io.BytesIO()
    image.save(file, **save)
    return dict(
        image=dict(bytes=file.getvalue(), path=f'{name}.jpg'), text=f'The red one of {name}.',
        mask=mask.tolist(), image_id=name, ann_id=f'{name}_0', img_height=height, img_width=width)


def evaluation_copy() -> Dataset:
    """A JPEG, one with an EXIF rotation, and a grey PNG."""
    turned = Image.Exif()
    turned[0x0112] = 6  # viewers turn it clockwise
    jpeg = dict(format='JPEG', quality=95)
    boxes = [[2, 3, 9, 12]]
    return Dataset.from_list([
        evaluation_row('wide', draw((30, 20), boxes), boxes, **jpeg),
        evaluation_row('turned', draw((18, 32), boxes), boxes, exif=turned, **jpeg),
        evaluation_row('grey', draw((24, 24), boxes).convert('L'), boxes, format='PNG'),
    ], features=EVALUATION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder for the copies')
    out = parser.parse_args().out
    one = training_copy(ONE, one_object_solution)
    for i, rows in enumerate(((0, 1, 2), (3, 4))):
        folder = out / 'refCOCOg_9k_840/data'
        folder.mkdir(parents=True, exist_ok=True)
        one.select(rows).to_parquet(folder / f'train-{i:05d}-of-00002.parquet')
    DatasetDict(train=training_copy(SEVERAL, objects_solution)).save_to_disk(
        out / 'VisionReasoner_multi_object_7k_840', num_shards=dict(train=2))
    test = evaluation_copy()
    (out / 'ReasonSeg_test/data').mkdir(parents=True, exist_ok=True)
    test.to_parquet(out / 'ReasonSeg_test/data/test-00000-of-00001.parquet')
    refcoco = test.select([0, 0]).add_column('bbox', [[2, 3, 9, 12]] * 2)
    DatasetDict(test=refcoco).save_to_disk(out / 'refcoco_testA')


if __name__ == '__main__':
    main()
