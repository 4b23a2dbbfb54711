# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Record which pixels labelme's own code gives to its shapes.

    pip install --no-deps --target LABELME labelme==6.3.1
    python tests/data/labelme/make_labelme.py LABELME tests/data/labelme/shapes.jsonl

Each line has the `height` and `width` of an image, a `shape` as an annotation has it, and `marked`,
COCO's RLE of the pixels that `labelme.utils.shapes_to_label` gives to it. Nothing of labelme runs
but the two files that draw and decode: its package imports Qt.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Marked = Callable[[dict, int, int], np.ndarray]


def load_labelme(folder: Path) -> Marked:
    """What draws a shape in an image of (height, width) as bool, by the labelme in a folder."""
    def stub(name: str, **entries: object) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(entries)
        return module

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f'labelme_{name}',
                                                      folder / f'labelme/utils/{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    gui = stub('PyQt5.QtGui', QImage=object)
    with patch.dict(sys.modules, {
            'labelme': stub('labelme'), 'PyQt5': stub('PyQt5', QtGui=gui), 'PyQt5.QtGui': gui,
            'labelme._label_file': stub('labelme._label_file', ShapeDict=dict)}):
        drawing, decoding = load('shape'), load('image')

    def marked(shape: dict, height: int, width: int) -> np.ndarray:
        if shape.get('mask'):  # as its reader of files does
            shape = dict(shape, mask=decoding.img_b64_to_arr(shape['mask']).astype(bool))
        classes, _ = drawing.shapes_to_label((height, width), [shape], {shape['label']: 1})
        return classes == 1

    return marked


def make_shapes() -> Iterator[tuple[int, int, dict]]:
    """(height, width, shape) of each case: some by hand, others drawn."""
    rng = np.random.default_rng(20)

    def case(kind: str, points: list, height: int = 24, width: int = 40, **more: object):
        return height, width, dict(label='target', shape_type=kind, points=points, **more)

    yield case('rectangle', [[0, 0], [100, 100]], 120, 130)
    yield case('rectangle', [[30.6, 20.4], [3.5, 2.5]])  # corners in the other order
    yield case('rectangle', [[3.5, 20], [30, 2.9]])
    yield case('rectangle', [[-5.5, -7], [12.2, 50]])  # beyond the image
    yield case('rectangle', [[5, 6], [5, 6]])
    yield case('rectangle', [[50, 6], [60, 9]])  # outside
    yield case('circle', [[12, 11], [12, 11]])
    yield case('circle', [[12, 11], [15, 15]])
    yield case('circle', [[12.5, 11.25], [16.9, 3.3]])
    yield case('circle', [[2, 3], [30, 20]])
    yield case('circle', [[20, 12], [4000, 12]])  # covers the image
    yield case('circle', [[20, 2000], [20, 10]])
    yield case('oriented_rectangle', [[10, 2], [30.5, 8], [26, 20.5], [5.5, 14.5]])
    yield case('oriented_rectangle', [[-6, 2], [10, -5], [50, 12], [30, 30]])
    for kind, count in (('rectangle', 2), ('circle', 2), ('oriented_rectangle', 4)):
        for _ in range(20):
            height, width = rng.integers(8, 60, size=2).tolist()
            points = rng.uniform(-0.3, 1.3, (count, 2)) * (width, height)
            yield case(kind, points.round(rng.integers(0, 4)).tolist(), height, width)
    for _ in range(12):
        height, width = rng.integers(8, 60, size=2).tolist()
        x1, y1 = rng.integers(0, (width, height)).tolist()
        x2, y2 = rng.integers((x1, y1), (width, height)).tolist()
        values = rng.integers(0, 2, (y2 - y1 + 1, x2 - x1 + 1), np.uint8)
        shift = float(rng.choice([0, 0, 0.25, 0.75]))  # dragged: it is where its corner's pixel is
        yield case('mask', [[x1 + shift, y1 + shift], [x2 + shift, y2 + shift]], height, width,
                   mask=as_png(Image.fromarray(values * rng.choice([1, 255]).astype(np.uint8))))
    yield case('mask', [[3, 4], [12, 9]], mask=as_png(Image.new('1', (10, 6), 1)))


def as_png(image: Image.Image) -> str:
    """An image as PNG in base64."""
    file = io.BytesIO()
    image.save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode('ascii')


def main() -> None:
    folder, path = map(Path, sys.argv[1:])
    marked = load_labelme(folder)
    lines = []
    for height, width, shape in make_shapes():
        rle = coco_mask.encode(np.asfortranarray(marked(shape, height, width), np.uint8))
        lines.append(dict(height=height, width=width, shape=shape,
                          marked=dict(size=rle['size'], counts=rle['counts'].decode('ascii'))))
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    print(len(lines), 'shapes')


if __name__ == '__main__':
    main()
