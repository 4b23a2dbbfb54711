# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A synthetic world of colored shapes: scenes, questions, reasoning and captions.

It replaces a reasoning segmentation data set where real ones are too large: in tests, in examples
and in the training of the toy models. Everything follows from integers (seed, split, index), so
scene i of a split is the same on every machine.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHAPES_IMAGE_SIZE = (112, 112)
"""Width and height in pixels of the model image of the toy models."""

SHAPES_PROMPT_TEMPLATE = 'find "{question}"'
"""Prompt template of the toy policy (it is too small for the long default prompt)."""

SHAPES_PROMPT_WITHOUT_CAPTION = 'which "{question}"'
"""Prompt template that asks the study's policies for an answer without a caption."""

SCENE_SIZES = ((160, 120), (128, 128), (120, 160))
"""Widths and heights of scenes in pixels (the original frame)."""

WORLD_VERSION = 4
"""Version of what scenes look like, ask and write to files. Data written by an earlier version is
generated again."""

COLORS = {
    'red': (214, 40, 40),
    'green': (46, 160, 67),
    'blue': (38, 84, 210),
    'yellow': (240, 214, 48),
    'purple': (140, 54, 170),
    'black': (34, 34, 38),
}
SHAPES = ('circle', 'square', 'triangle', 'star')
SIZES = {'small': (10.0, 12.0), 'big': (17.0, 20.0)}
"""Radius range of each size in pixels, for an image with an area of 112 x 112 pixels."""

SPLITS = ('train', 'val', 'test')

FUNCTIONS = {
    'circle': ('a circle can roll', 'something you could roll',
               'which of these could roll down a hill?'),
    'square': ('a square stacks well', 'something to build a wall with',
               'which of these could you stack into a tower?'),
    'triangle': ('a roof is a triangle', 'the one that looks like a roof',
                 'which of these could be the roof of a house?'),
    'star': ('a star shines at night', 'the one that shines at night',
             'which of these would you see in the sky at night?'),
}
"""Shape -> why it fits, a short phrase, a question in a full sentence."""

GENERIC_CAPTIONS = ('an object in the picture', 'something in the picture',
                    'a shape on a plain background')


@dataclass(frozen=True)
class World:
    """The settings of scenes.

    Attributes:
        num_objects: Minimum and maximum number of objects in a scene.
        look_alikes: All objects differ from the first one in only one attribute, and questions
            name all attributes, or a relation among objects that share one.
        shifted: Use sizes, textures and backgrounds that the toy models were not trained on.
    """

    num_objects: tuple[int, int] = (3, 4)
    look_alikes: bool = False
    shifted: bool = False


WORLDS = dict(
    plain=World(),
    few=World((2, 3)),
    many=World((5, 6)),
    look_alikes=World((3, 5), look_alikes=True),
    shifted=World(shifted=True))
"""The worlds of single scenes by name."""

MIXTURES = dict(study=('few', 'many', 'look_alikes'))
"""Mixtures of worlds: each scene is from one of them, with equal probability."""

_SHIFTED_SIZES = {'small': (12.5, 13.5), 'big': (20.5, 22.0)}
_GAP = 3.0
_EXTREME_MARGIN = 0.1
_TINT = 26.0


@dataclass(frozen=True)
class ShapeObject:
    """One object of a scene.

    Attributes:
        shape: One of `SHAPES`.
        color: A key of `COLORS`.
        size: A key of `SIZES`.
        polygon: float64 (N, 2), outline as (x, y) in pixels of the original frame.
    """

    shape: str
    color: str
    size: str
    polygon: np.ndarray

    @property
    def name(self) -> str:
        """Size, color and shape, as in 'big red circle'."""
        return f'{self.size} {self.color} {self.shape}'

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight box of the outline: (x1, y1, x2, y2) in pixels of the original frame."""
        low, high = self.polygon.min(0), self.polygon.max(0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    @property
    def center(self) -> tuple[float, float]:
        """Center of `box`: (x, y) in pixels of the original frame."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class Question:
    """A question with one right answer.

    Attributes:
        text: Lower case, without a final dot.
        kind: 'attribute', 'superlative', 'position' or 'function'; with look-alikes 'name' or
            'relation'.
        target: Index of the object that it asks for.
        is_sentence: Whether the text is a full sentence, like ReasonSeg's long queries.
    """

    text: str
    kind: str
    target: int
    is_sentence: bool = False


@dataclass(frozen=True)
class Scene:
    """An image, its objects and one question about it.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        objects: The objects, from left to right.
        question: The question; `question.target` indexes `objects`.
    """

    image: np.ndarray
    objects: tuple[ShapeObject, ...]
    question: Question

    @property
    def target(self) -> ShapeObject:
        """The object that the question asks for."""
        return self.objects[self.question.target]

    def reasoning(self, style: str) -> str:
        """Write ideal reasoning; see `write_reasoning`."""
        return write_reasoning(self.objects, self.question, style)

    def captions(self) -> dict[str, tuple[str, ...]]:
        """List captions by kind ('specific', 'generic', 'other'); see `captions_of`."""
        return captions_of(self.objects, self.question.target)


def make_scene(split: str, index: int, seed: int = 0, world: str = 'plain') -> Scene:
    """Make scene `index` of a split.

    Args:
        split: One of `SPLITS`.
        index: Index of the scene, from 0.
        seed: Seed of the world, >= 0.
        world: Key of `WORLDS` or `MIXTURES`.

    Returns:
        The scene; equal arguments give equal scenes.

    Raises:
        ValueError: If `split` or `world` is unknown or a number is negative.
    """
    if split not in SPLITS:
        raise ValueError(f'`split` should be one of {SPLITS}, but got {split!r}')
    if world not in WORLDS and world not in MIXTURES:
        raise ValueError(f'`world` should be one of {[*WORLDS, *MIXTURES]}, but got {world!r}')
    if index < 0 or seed < 0:
        raise ValueError(f'`index` and `seed` should be >= 0, but got {index} and {seed}')
    return draw_scene(np.random.default_rng([seed, SPLITS.index(split), index]), world)


def draw_scene(rng: np.random.Generator, world: str = 'plain') -> Scene:
    """Draw a random scene with one of its possible questions.

    The kind of question is drawn first, so that the many attribute questions do not crowd out
    the others. See `make_scene` for `world`.
    """
    if world in MIXTURES:
        world = MIXTURES[world][rng.integers(len(MIXTURES[world]))]
    style = WORLDS[world]
    ask = list_close_questions if style.look_alikes else list_questions
    width, height = SCENE_SIZES[rng.integers(len(SCENE_SIZES))]
    questions: list[Question] = []
    while not questions:
        count = int(rng.integers(style.num_objects[0], style.num_objects[1] + 1))
        objects = _place_objects(rng, width, height, count, style)
        questions = ask(objects, width, height)
    kinds = sorted({question.kind for question in questions})
    kind = kinds[rng.integers(len(kinds))]
    choice = [question for question in questions if question.kind == kind]
    image = paint(rng, objects, width, height)
    if style.shifted:
        image = _add_texture(rng, image, objects)
    return Scene(image, objects, choice[rng.integers(len(choice))])


def list_questions(objects, width: int, height: int) -> list[Question]:
    """List every question with exactly one right answer in a scene.

    Args:
        objects: The scene's objects.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        The questions, in a fixed order.
    """
    found: list[Question] = []

    def ask_where(matches, text, kind, is_sentence=False):
        fitting = [i for i, item in enumerate(objects) if matches(item)]
        if len(fitting) == 1:
            found.append(Question(text, kind, fitting[0], is_sentence))

    for shape in SHAPES:
        ask_where(lambda o, s=shape: o.shape == s, f'the {shape}', 'attribute')
        _, phrase, sentence = FUNCTIONS[shape]
        ask_where(lambda o, s=shape: o.shape == s, phrase, 'function')
        ask_where(lambda o, s=shape: o.shape == s, sentence, 'function', True)
        for size in SIZES:
            ask_where(lambda o, s=shape, z=size: (o.shape, o.size) == (s, z),
                      f'the {size} {shape}', 'attribute')
    for color in COLORS:
        ask_where(lambda o, c=color: o.color == c, f'the {color} object', 'attribute')
        for shape in SHAPES:
            ask_where(lambda o, c=color, s=shape: (o.color, o.shape) == (c, s),
                      f'the {color} {shape}', 'attribute')
    ask_where(lambda o: o.size == 'big', 'the biggest object', 'superlative')
    ask_where(lambda o: o.size == 'small', 'the smallest object', 'superlative')
    for side, target in find_extremes(objects, range(len(objects)), width, height):
        found.append(Question(f'the object nearest to the {side}', 'position', target))
        found.append(Question(f'which object is closest to the {side} of the picture?',
                              'position', target, True))
    return found


def list_close_questions(objects, width: int, height: int) -> list[Question]:
    """List questions with exactly one right answer that look-alikes make hard: by the full name, or
    by the position among objects of one color or shape. The arguments are as in
    `list_questions`."""
    found = [Question(f'the {item.name}', 'name', i) for i, item in enumerate(objects)]
    groups = [(f'{color} object', [i for i, o in enumerate(objects) if o.color == color])
              for color in COLORS]
    groups += [(shape, [i for i, o in enumerate(objects) if o.shape == shape])
               for shape in SHAPES]
    for name, members in groups:
        if 1 < len(members) < len(objects):
            found += [Question(f'the {name} nearest to the {side}', 'relation', target)
                      for side, target in find_extremes(objects, members, width, height)]
    return found


def find_extremes(objects, members, width: int, height: int) -> list[tuple[str, int]]:
    """Find the sides of the image to which one of the members (indices) is clearly nearest: pairs
    of a side and a member."""
    found = []
    for axis, extent, low, high in ((0, width, 'left', 'right'), (1, height, 'top', 'bottom')):
        centers = np.array([objects[i].center[axis] for i in members])
        order = np.argsort(centers)
        for side, first, second in ((low, 0, 1), (high, -1, -2)):
            if abs(centers[order[first]] - centers[order[second]]) >= _EXTREME_MARGIN * extent:
                found.append((side, int(members[order[first]])))
    return found


def write_reasoning(objects, question: Question, style: str) -> str:
    """Write ideal reasoning.

    Args:
        objects: The scene's objects.
        question: The question to answer.
        style: 'list' names every object first; 'focus' goes straight to the target.

    Returns:
        Text without tags.

    Raises:
        ValueError: If `style` is unknown.
    """
    target = objects[question.target]
    text = f'it is the {target.name}.'
    if question.kind == 'function':
        text = f'{FUNCTIONS[target.shape][0]}. {text}'
    if style == 'focus':
        return text
    if style == 'list':
        return 'there is ' + ', '.join(f'a {item.name}' for item in objects) + f'. {text}'
    raise ValueError(f"`style` should be 'list' or 'focus', but got {style!r}")


def captions_of(objects, target: int) -> dict[str, tuple[str, ...]]:
    """List captions by how well they describe the target.

    Args:
        objects: The scene's objects.
        target: Index of the target.

    Returns:
        'specific' (true of the target, names its color and shape), 'generic' (true of any
        object), 'other' (true of another object that differs in color or shape; can be empty).
    """
    goal = objects[target]
    return dict(
        specific=_describe(goal),
        generic=GENERIC_CAPTIONS,
        other=tuple(text for item in objects
                    if (item.color, item.shape) != (goal.color, goal.shape)
                    for text in _describe(item)))


def _describe(item: ShapeObject) -> tuple[str, str]:
    return f'a {item.color} {item.shape}', f'a {item.name}'


def _outline(shape: str, radius: float, tilt: float) -> np.ndarray:
    """Make an outline (N, 2) around (0, 0); `tilt`, in radians, does not affect a circle."""
    if shape == 'star':
        angles = np.arange(10) * np.pi / 5 - np.pi / 2 + tilt
        radii = np.where(np.arange(10) % 2 == 0, radius, radius * 0.48)
    elif shape == 'circle':
        angles, radii = np.arange(32) * np.pi / 16, np.full(32, radius * 0.95)
    else:
        corners = dict(square=4, triangle=3)[shape]
        start = -np.pi / 4 if shape == 'square' else -np.pi / 2
        angles = np.arange(corners) * 2 * np.pi / corners + start + tilt
        radii = np.full(corners, radius * 1.1)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _place_objects(rng, width: int, height: int, count: int,
                   style: World) -> tuple[ShapeObject, ...]:
    """Place objects without overlap, no two equal in all three attributes, from left to right."""
    scale = np.sqrt(width * height / 112.0**2)
    sizes = _SHIFTED_SIZES if style.shifted else SIZES
    while True:
        placed: list[ShapeObject] = []
        for _ in range(60):
            size = 'big' if rng.random() < 0.5 else 'small'
            shape = SHAPES[rng.integers(len(SHAPES))]
            color = list(COLORS)[rng.integers(len(COLORS))]
            if style.look_alikes and placed:
                first, changed = placed[0], rng.integers(3)
                size, color, shape = (first.size if changed != 0 else size,
                                      first.color if changed != 1 else color,
                                      first.shape if changed != 2 else shape)
            outline = _outline(shape, rng.uniform(*sizes[size]) * scale, rng.uniform(-0.2, 0.2))
            low, high = outline.min(0), outline.max(0)
            x = rng.uniform(2 - low[0], width - 3 - high[0])
            y = rng.uniform(2 - low[1], height - 3 - high[1])
            item = ShapeObject(shape, color, size, np.round(outline + (x, y), 2))
            if all(item.name != other.name and not _touch(item.box, other.box, _GAP * scale)
                   for other in placed):
                placed.append(item)
            if len(placed) == count:
                return tuple(sorted(placed, key=lambda item: item.center[0]))


def _touch(a, b, gap: float) -> bool:
    return a[0] - gap < b[2] and b[0] - gap < a[2] and a[1] - gap < b[3] and b[1] - gap < a[3]


def paint(rng, objects, width: int, height: int) -> np.ndarray:
    """Paint a noisy background with the objects on it.

    The background is redder on the left and bluer at the top, so that its color reveals the
    position: a network without absolute positions, like Qwen2.5-VL's, cannot infer it from plain
    gray.
    """
    gray = rng.uniform(185, 225) + rng.normal(0, 3, (height, width))
    image = np.repeat(gray[..., None], 3, axis=2)
    image[..., 0] += np.linspace(_TINT, -_TINT, width)[None]
    image[..., 2] += np.linspace(_TINT, -_TINT, height)[:, None]
    image = image.clip(0, 255).astype(np.uint8)
    for item in objects:
        color = np.clip(np.array(COLORS[item.color]) + rng.uniform(-14, 14, 3), 0, 255)
        points = np.round(item.polygon * 16).astype(np.int32)
        cv2.fillPoly(image, [points], color.tolist(), lineType=cv2.LINE_AA, shift=4)
    return image


def _add_texture(rng, image: np.ndarray, objects) -> np.ndarray:
    """Add stripes to the background and a checkerboard to the objects."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 12)
    stripes = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * 2 * np.pi / period)
    change = 14 * stripes
    cell = rng.integers(3, 6)
    checks = ((xs // cell + ys // cell) % 2) * -28.0
    for item in objects:
        inside = np.zeros((height, width), np.uint8)
        cv2.fillPoly(inside, [np.round(item.polygon).astype(np.int32)], 1)
        change = np.where(inside > 0, checks, change)
    return (image + change[..., None]).clip(0, 255).astype(np.uint8)
