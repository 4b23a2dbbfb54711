# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Writes the shapes world in ReasonSeg's folder layout.

    python tools/dataset_converters/shapes_world.py data/shapes_world

Creates OUT_DIR/train, val and test with an image (.jpg) and an annotation (.json) for each scene.
Annotations in train also contain ideal reasoning and an ideal caption, for supervised training.
OUT_DIR/annotations has the same scenes for two further tasks (`mmdpad/toy/shapes_tasks.py`):
instances_SPLIT.json, all objects in COCO's form, and questions_SPLIT.jsonl, questions with answers
in words for AnswerLinesDataset, two about each scene.
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

from mmdpad.toy.shapes_tasks import AnsweredQuestion, answered_questions_of, outer_box
from mmdpad.toy.shapes_world import (
    MIXTURES,
    SHAPES,
    SPLITS,
    WORLD_VERSION,
    WORLDS,
    Scene,
    make_scene,
)
from mmdpad.toy.zoom_world import TINY_WORLD, make_tiny_scene

MARKER = 'shapes_world.json'
ANNOTATIONS = 'annotations'
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


def add_instances(coco: dict[str, list], scene: Scene, file_name: str) -> None:
    """Add a scene to the `images` and its objects to the `annotations` of a COCO file; categories
    are shapes, in the order of `SHAPES`, from 1."""
    height, width = scene.image.shape[:2]
    image = len(coco['images'])
    coco['images'].append(dict(id=image, file_name=file_name, width=width, height=height))
    for item in scene.objects:
        x1, y1, x2, y2 = outer_box(item)
        box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
        coco['annotations'].append(dict(
            id=len(coco['annotations']) + 1, image_id=image,
            category_id=SHAPES.index(item.shape) + 1, bbox=box, area=round(box[2] * box[3], 2),
            segmentation=[(item.polygon + 0.5).round(2).ravel().tolist()], iscrowd=0))


def line_of(scene: Scene, question: AnsweredQuestion, number: int, image_name: str) -> dict:
    """A question as a line of `AnswerLinesDataset`."""
    boxes = {shown: [list(outer_box(item)) for i, item in enumerate(scene.objects)
                     if (i in question.evidence) == shown] for shown in (True, False)}
    return dict(id=number, image=image_name, texts=[question.text], answers=[question.answer],
                evidence=boxes[True], other_boxes=boxes[False], question_type=question.kind)


def convert(out_dir: Path, counts: dict[str, int], seed: int = 0, world: str = 'plain') -> bool:
    """Write the complete data set.

    Args:
        out_dir: Destination, created if missing.
        counts: Number of scenes by split.
        seed: Seed of the world.
        world: The kind of world, see `make_scene`; or `TINY_WORLD`.

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
    (folder / ANNOTATIONS).mkdir(parents=True)
    for split, count in counts.items():
        (folder / split).mkdir()
        coco: dict[str, list] = dict(images=[], annotations=[], categories=[
            dict(id=number, name=shape) for number, shape in enumerate(SHAPES, start=1)])
        lines: list[dict] = []
        for index in range(count):
            scene = (make_tiny_scene(split, index, seed) if world == TINY_WORLD else
                     make_scene(split, index, seed, world))
            name = f'{split}_{index:05d}'
            write_scene(scene, folder / split, name, split == 'train')
            add_instances(coco, scene, f'{split}/{name}.jpg')
            for question in answered_questions_of(scene, split, index, seed):
                lines.append(line_of(scene, question, len(lines), f'{split}/{name}.jpg'))
        texts = {f'instances_{split}.json': json.dumps(coco) + '\n',
                 f'questions_{split}.jsonl': ''.join(json.dumps(line) + '\n' for line in lines)}
        for name, text in texts.items():
            (folder / ANNOTATIONS / name).write_text(text, encoding='utf-8')


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
    parser.add_argument('--world', choices=[*WORLDS, *MIXTURES, TINY_WORLD],
                        default='plain', help='kind of scenes (default plain)')
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
