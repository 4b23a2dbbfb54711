# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times the evaluation of stored masks on synthetic data in ReasonSeg's layout.

    python tools/benchmarks/evaluate_masks.py

The data are generated in a temporary folder: JPEG files with annotations of several polygons, and
masks that are also polygons, stored as JSON lines. It times the work of
tools/analysis_tools/evaluate_masks.py after its imports: building the data set with all checks,
computing its fingerprint, scoring every mask, and writing the result.

Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=779, help="as many as ReasonSeg's test set")
    parser.add_argument('--size', type=int, nargs=2, default=(1024, 1024),
                        metavar=('WIDTH', 'HEIGHT'), help='of the images, pixels')
    parser.add_argument('--polygons', type=int, nargs=2, default=(1, 4), metavar=('MIN', 'MAX'),
                        help='of an annotation, one of them to ignore where there are several')
    parser.add_argument('--corners', type=int, default=60, help='of a polygon')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import cv2
import numpy as np
from common import alternate, environment, print_json, summary

import mmdpad.analysis.stored_masks  # noqa: F401 imported by the tool when it runs
from mmdpad.geometry.masks import encode_mask
from mmdpad.utils import write_jsonl

ROOT = Path(__file__).parents[2]


def make_polygon(rng: np.random.Generator, size: tuple[int, int], corners: int) -> np.ndarray:
    """A ragged blob somewhere in the image: (corners, 2) int32, (x, y)."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.05, 0.35) * min(size) * rng.uniform(0.7, 1, (corners, 1))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (rng.uniform(0.2, 0.8, 2) * size + radius * around).astype(np.int32)


def make_data(args: argparse.Namespace, folder: Path) -> Path:
    """Write the split `test` and the masks; return the file with the masks."""
    rng = np.random.default_rng(args.seed)
    width, height = args.size
    _, image = cv2.imencode('.jpg', cv2.resize(
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (width, height)))
    (folder / 'test').mkdir()
    lines = []
    for i in range(args.images):
        shapes = [dict(label='ignore' if k else 'target',
                       points=make_polygon(rng, args.size, args.corners).tolist())
                  for k in range(rng.integers(args.polygons[0], args.polygons[1] + 1))]
        if len(shapes) > 2:
            shapes[1]['label'] = 'target'
        question = f'the thing number {i}'
        path = folder / 'test' / f'{i:04}.json'
        path.write_text(json.dumps(dict(text=[question], is_sentence=bool(i % 2), shapes=shapes)))
        path.with_suffix('.jpg').write_bytes(image.tobytes())
        mask = cv2.fillPoly(np.zeros((height, width), np.uint8),
                            [make_polygon(rng, args.size, args.corners)], 1)
        noise = rng.integers(0, (width, height), (200, 2))  # decoders leave specks
        mask[noise[:, 1], noise[:, 0]] ^= 1
        lines.append(dict(id=path.stem, question=question, mask=encode_mask(mask > 0)))
    return Path(write_jsonl(str(folder / 'masks.jsonl'), lines))


def load_tool(folder: Path, masks: Path) -> Callable[[], None]:
    """The tool as a function, with its imports done."""
    path = ROOT / 'tools/analysis_tools/evaluate_masks.py'
    spec = importlib.util.spec_from_file_location('evaluate_masks_tool', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    sys.argv = [str(path), str(ROOT / 'configs/dpad/qwen7b_reasonseg.py'), str(masks),
                '--cfg-options', f'test_dataloader.dataset.data_root={str(folder)!r}']

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            tool.main()

    return run


def main() -> None:
    args = parse_args()
    about = environment()
    with tempfile.TemporaryDirectory() as folder:
        masks = make_data(args, Path(folder))
        seconds = alternate(dict(evaluate_masks=load_tool(Path(folder), masks)), args.repeats)
        result = json.loads(Path(folder, 'masks_scored.json').read_text())
    print_json(dict(environment=about, setting=vars(args), samples=result['metrics']['n'],
                    giou=result['metrics']['giou'], **summary(seconds, 'evaluate_masks')))


if __name__ == '__main__':
    main()
