# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Writes the shapes world in ReasonSeg's folder layout.

    python tools/dataset_converters/shapes_world.py data/shapes_world

Creates OUT_DIR/train, val and test with an image (.jpg) and an annotation (.json) for each scene.
Annotations in train also contain ideal reasoning and an ideal caption, for supervised training.
Run it as often as you like: with the same arguments it changes nothing, with others it replaces the
data. It never touches a folder that it did not create. OUT_DIR appears only once it is complete.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2

from mmdpad.toy.shapes_world import MIXTURES, SPLITS, WORLD_VERSION, WORLDS, Scene, make_scene

MARKER = 'shapes_world.json'
JPEG_QUALITY = 95


class ConversionError(Exception):
    """The problem with the destination, and how to fix it."""


def annotation_of(scene: Scene, image_name: str, answered: bool = False) -> dict:
    """The scene's annotation in ReasonSeg's form, with the boxes of all objects but the target.

    Points are (x, y) and boxes (x1, y1, x2, y2) in pixels of the image. If ``answered``, it also
    has focused reasoning and the caption with all three attributes, which matches no other object.
    """
    shape = dict(label='target', labels=['target'], shape_type='polygon', image_name=image_name,
                 points=scene.target.polygon.tolist(), group_id=None)
    answer = dict(think=scene.reasoning('focus'), caption=scene.captions()['specific'][-1])
    return dict(text=[scene.question.text], is_sentence=scene.question.is_sentence,
                shapes=[shape],
                other_boxes=[item.box for item in scene.objects if item is not scene.target],
                **(answer if answered else {}))


def write_scene(scene: Scene, folder: Path, name: str, answered: bool) -> None:
    """Write `name`.jpg and `name`.json into a folder; see `annotation_of` for `answered`.

    Raises:
        OSError: If a file cannot be written.
    """
    image_path = folder / f'{name}.jpg'
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(image_path), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise OSError(f'{image_path} cannot be written')
    text = json.dumps(annotation_of(scene, image_path.name, answered))
    (folder / f'{name}.json').write_text(text + '\n', encoding='utf-8')


def convert(out_dir: Path, counts: dict[str, int], seed: int = 0, world: str = 'plain') -> bool:
    """Write the complete data set.

    Args:
        out_dir: Destination, created if missing.
        counts: Number of scenes by split.
        seed: Seed of the world.
        world: The kind of world, see `make_scene`.

    Returns:
        Whether anything was written; False if `out_dir` already contains exactly this.

    Raises:
        ConversionError: If `out_dir` exists and was not created by this tool.
    """
    out_dir = Path(os.path.abspath(out_dir))
    recipe = dict(made_by='mmdpad tools/dataset_converters/shapes_world.py', counts=counts,
                  seed=seed, world_version=WORLD_VERSION)
    if world != 'plain':
        recipe['world'] = world
    if _read_recipe(out_dir) == recipe:
        return False
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f'.{out_dir.name}-', dir=out_dir.parent))
    try:
        _write_splits(building / 'new', counts, seed, world)
        (building / 'new' / MARKER).write_text(json.dumps(recipe) + '\n', encoding='utf-8')
        if out_dir.exists():
            out_dir.rename(building / 'old')
        (building / 'new').rename(out_dir)
    finally:
        # Restore the old folder if the last step failed.
        if (building / 'old').exists() and not out_dir.exists():
            (building / 'old').rename(out_dir)
        shutil.rmtree(building)
    return True


def _write_splits(folder: Path, counts: dict[str, int], seed: int, world: str) -> None:
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        for index in range(count):
            scene = make_scene(split, index, seed, world)
            write_scene(scene, folder / split, f'{split}_{index:05d}', split == 'train')


def _read_recipe(out_dir: Path) -> dict | None:
    """The arguments that `out_dir` was created with; None if it is missing or empty."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return None
    marker = out_dir / MARKER
    try:
        recipe = json.loads(marker.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        recipe = None
    if not isinstance(recipe, dict) or 'made_by' not in recipe:
        raise ConversionError(
            f'`OUT_DIR` should be new, empty or created by this tool, but {out_dir} has no '
            f'readable {MARKER}; choose another folder or remove this one yourself')
    return recipe


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out_dir', type=Path, metavar='OUT_DIR')
    for split, count in zip(SPLITS, (2000, 192, 192), strict=True):
        parser.add_argument(f'--{split}', type=int, default=count, metavar='N',
                            help=f'number of {split} scenes (default {count})')
    parser.add_argument('--seed', type=int, default=0, help='seed of the world (default 0)')
    parser.add_argument('--world', choices=[*WORLDS, *MIXTURES], default='plain',
                        help='kind of scenes (default plain)')
    args = parser.parse_args()
    counts = {split: getattr(args, split) for split in SPLITS}
    if min(*counts.values(), args.seed) < 0:
        parser.error(f'numbers should be >= 0, but got {counts} and seed {args.seed}')
    try:
        written = convert(args.out_dir, counts, args.seed, args.world)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 1
    what = ', '.join(f'{count} {split}' for split, count in counts.items())
    print(f'{args.out_dir}: {what} scenes' + ('' if written else ' (already there)'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
