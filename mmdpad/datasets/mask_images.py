# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Read mask image files from any program: which pixels are the object?

Black is background and everything else the object, as a viewer shows the file. If that would be a
guess, the file is rejected and the error gives both readings. docs/data.md has the rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from PIL import Image

from mmdpad.geometry.masks import MAX_PARTS

from .errors import DatasetError
from .images import MAX_PIXELS, open_image, upright

_VOID_INDEX, _VOID_COLOR = 255, 0xE0E0C0  # in Pascal VOC's palette and those derived from it
_NUMBERS_BELOW = 32  # lower gray values number objects
_FEW = 8  # objects in shades of gray, or objects too thin for a square of 2 x 2 pixels
_SOFT = 3  # a soft edge has at least this many values
_NOT_BLACK, _NOT_ZERO = 'everything not black', 'all values but 0'
_BRIGHT, _VISIBLE = 'everything brighter than half of the brightest', 'everything visible'
_BINARY = 'save the object as 255 and everything else as 0 in an 8-bit gray PNG'


@dataclass(frozen=True)
class MaskImage:
    """What a mask file marks.

    Attributes:
        values: (H, W) integers; in an index mask, the number of each pixel's object.
        marked: (H, W) bool, the object, or all objects of an index mask.
        void: (H, W) bool, disjoint from ``marked``: neither object nor background.
    """

    values: np.ndarray
    marked: np.ndarray
    void: np.ndarray

    def objects(self) -> Iterator[np.ndarray]:
        """The objects of an index mask by their number, each bool (H, W) and not empty."""
        for number in _unique(self.values[self.marked]):
            yield (self.values == number) & self.marked


def read_mask_image(path: str | os.PathLike, height: int, width: int, index_masks: bool = False,
                    max_pixels: int = MAX_PIXELS) -> MaskImage:
    """Read a mask from an image file.

    Args:
        path: The file, in one of :data:`.images.FORMATS` and in any mode.
        height, width: Of its image, after the EXIF rotation; the mask is rotated by its own EXIF.
        index_masks: The values of the file number its objects.
        max_pixels: As in :func:`.images.read_image`.

    Raises:
        DatasetError: It cannot be decoded, has another size, or is ambiguous.
    """
    with open_image(path, path, max_pixels) as image:
        _check_depth(image, path)
        reader = _Reader(path, index_masks, is_jpeg=image.format == 'JPEG')
        image = upright(image)
        if image.size != (width, height):
            raise DatasetError(
                f'{path} should have the size of its image, {width} x {height} pixels (width x '
                f'height, after its EXIF rotation), but has {image.size[0]} x {image.size[1]}; '
                'export it again', 'wrong mask')
        return reader.read(image)


def _check_depth(image: Image.Image, path: str | os.PathLike) -> None:
    """Reject what Pillow cuts to 8 bits, or does not return as integers."""
    is_cut = not image.mode.startswith('I') and any(
        ';16' in str(tile) for tile in getattr(image, 'tile', ()))
    if image.mode == 'F' or is_cut:
        raise DatasetError(f'{path} should have 8 bits per channel, or 16 in gray, but has '
                           f'{"16-bit colors" if is_cut else "floating-point values"}; '
                           f'{_BINARY}', 'wrong mask')
    if image.mode == 'I':
        lowest, highest = cast(tuple[int, int], image.getextrema())
        if lowest < 0 or highest > 65535:
            raise DatasetError(f'{path} should have values from 0 to 65535, but has {lowest} to '
                               f'{highest}; {_BINARY}', 'wrong mask')


@dataclass(frozen=True)
class _Decoded:
    """The pixels of a mask.

    Attributes:
        values: (H, W) integers: gray values, entries of the palette, or ``colors``.
        colors: (H, W) integers, as a viewer shows them: gray values, or 0xRRGGBB; 0 is black.
        is_gray: Whether ``colors`` are gray values.
        entries: Colors of the palette's entries, if there is a palette.
        alpha: (H, W) uint8, unless every pixel is opaque.
    """

    values: np.ndarray
    colors: np.ndarray
    is_gray: bool
    entries: np.ndarray | None
    alpha: np.ndarray | None


def _decode(image: Image.Image) -> _Decoded:
    if image.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA') and not image.mode.startswith('I'):
        image = image.convert('RGBA' if image.mode.lower().endswith('a') else 'RGB')
    alpha = None
    if image.mode.endswith('A'):
        alpha = np.asarray(image.getchannel('A'))
    elif 'transparency' in image.info and image.mode.startswith('I'):
        alpha = np.where(np.asarray(image) == image.info['transparency'], 0, 255).astype(np.uint8)
    elif 'transparency' in image.info:
        alpha = np.asarray(image.convert('RGBA').getchannel('A'))
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if image.mode == 'P':
        values = np.asarray(image)
        palette = np.zeros((256, 3), np.int32)
        stored = np.array(image.getpalette(), np.int32).reshape(-1, 3)
        palette[:len(stored)] = stored
        used = palette[_unique(values)]
        is_gray = bool((used == used[:, :1]).all())
        entries = palette[:, 0] if is_gray else _pack(palette)
        return _Decoded(values, entries[values], is_gray, entries, alpha)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        gray = pixels.astype(np.uint8) if image.mode == '1' else pixels
        return _Decoded(gray, gray, True, None, alpha)
    pixels = pixels[..., :len(image.getbands()) - image.mode.endswith('A')]
    if (pixels == pixels[..., :1]).all():
        return _Decoded(pixels[..., 0], pixels[..., 0], True, None, alpha)
    colors = _pack(pixels)
    return _Decoded(colors, colors, False, None, alpha)


@dataclass(frozen=True)
class _Reader:
    """The rules for one file."""

    path: str | os.PathLike
    index_masks: bool
    is_jpeg: bool

    def read(self, image: Image.Image) -> MaskImage:
        decoded = _decode(image)
        if self.index_masks and not decoded.is_gray and decoded.entries is None:
            raise DatasetError(f'{self.path} should have one value per pixel, the number of its '
                               'object, but has colors; save it as a gray or palette image',
                               'wrong mask')
        if self.index_masks and (count := np.count_nonzero(_unique(decoded.values))) > MAX_PARTS:
            raise DatasetError(f'{self.path} should mark at most {MAX_PARTS} objects, but has '
                               f'{count} values; write fewer, or set `index_masks=False`',
                               'wrong mask')
        visible = self._visible(decoded)
        void = np.zeros(decoded.colors.shape, bool)
        if visible is not None:
            void = visible & _find_void(decoded, visible)
            marked = visible & ~void
            if self.index_masks and decoded.is_gray:
                self._cut(np.where(visible, decoded.colors, 0), numbered=True)
        elif decoded.entries is not None:
            marked, void = self._read_palette(decoded)
        elif decoded.is_gray:
            marked = self._cut(decoded.colors, self.index_masks)
        else:
            marked, void = self._read_colors(decoded.colors)
        return MaskImage(decoded.values, marked, void)

    def _visible(self, decoded: _Decoded) -> np.ndarray | None:
        """What the alpha channel marks, (H, W) bool; None if it is the same everywhere."""
        alpha, colored = decoded.alpha, decoded.colors > 0
        if alpha is None:
            return None
        visible = self._cut(alpha, numbered=False) if alpha.any() else alpha > 0
        if visible.all():
            return None
        shown = visible & colored
        if not colored.any() or (visible.any() and np.array_equal(shown, visible)):
            return visible
        raise self._unclear(
            'its transparency and its colors mark different pixels',
            {_VISIBLE: visible, 'everything visible and not black': shown, _NOT_BLACK: colored},
            'save one of them without the other: `image.getchannel("A")` or `image.convert("RGB")`')

    def _read_palette(self, decoded: _Decoded) -> tuple[np.ndarray, np.ndarray]:
        """Black is background. If entry 0 is used, a black entry must be used as well; if entry 0
        itself is black, no other used entry may be."""
        assert decoded.entries is not None
        values, colors = decoded.values, decoded.colors
        used = _unique(values)
        black = used[decoded.entries[used] == 0]
        if 0 in used and not len(black):
            raise self._two_palettes('it uses no black entry of its palette', decoded)
        if 0 in black and len(black) > 1:
            raise self._two_palettes(f'entries {_show(black)} of its palette are black', decoded)
        if decoded.is_gray:
            return self._cut(colors, self.index_masks), np.zeros(values.shape, bool)
        void = _is_void_entry(values, used)
        colors = np.where(void, 0, colors)
        if self.index_masks:
            edges = len(used) - len(_flat(values))
            if edges > max(len(used) - edges, _FEW):
                raise self._soft_numbers(edges, values > 0, colors > 0)
            return colors > 0, void
        marked, void_color = self._read_colors(colors)
        return marked, void | void_color

    def _two_palettes(self, why: str, decoded: _Decoded) -> DatasetError:
        return self._unclear(
            why, {'all entries of its palette but 0': decoded.values != 0,
                  _NOT_BLACK: decoded.colors > 0},
            'save the numbers, `Image.fromarray(np.asarray(image))`, or the colors, '
            '`image.convert("L")`, with 0 for the background')

    def _read_colors(self, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Black is background, and VOC's void color is void if there are other colors."""
        used = _unique(colors)
        if self.is_jpeg or used[0] > 0 or _has_shades(colors, used):
            brightest = np.maximum.reduce([colors >> shift & 255 for shift in (16, 8, 0)])
            return self._cut(brightest, numbered=False), np.zeros(colors.shape, bool)
        void = _is_void_color(colors, used)
        return (colors > 0) & ~void, void

    def _cut(self, gray: np.ndarray, numbered: bool) -> np.ndarray:
        """The object (H, W) bool in gray values: all but 0, or above half if edges are soft.

        ``numbered`` says that the values number objects, so edges cannot be soft.
        """
        largest = int(gray.max())
        marked, bright = gray > 0, gray > largest // 2
        if not largest or gray.min() == largest:
            return marked
        if self.is_jpeg and largest < _NUMBERS_BELOW:
            raise self._unclear('JPEG does not preserve values',
                                {_NOT_ZERO: marked, _BRIGHT: bright})
        middle = (largest + 1) // 2  # 128 next to 255: the unknown region of a trimap
        if not marked.all() and np.array_equal(marked, bright) and not (
                largest >= 224 and (gray == middle).any()):
            return marked
        used, flat = _unique(gray), _flat(gray)
        edges = len(used) - len(flat)
        is_low, is_high = flat <= largest / 8, flat >= largest * 7 / 8
        if (largest >= _NUMBERS_BELOW and (edges >= _SOFT or self.is_jpeg)
                and (is_low | is_high).all()
                and is_low.any() and is_high.any()):
            if numbered:
                raise self._soft_numbers(edges, marked, bright)
            return bright
        if marked.all() and not numbered:
            if gray.min() >= largest * 7 / 8:
                return marked
            raise self._unclear('none of its pixels is black', {_NOT_ZERO: marked, _BRIGHT: bright})
        self._check_levels(used, edges, numbered, {_NOT_ZERO: marked, _BRIGHT: bright})
        return marked

    def _check_levels(self, used: np.ndarray, edges: int, numbered: bool,
                      readings: dict[str, np.ndarray]) -> None:
        """Check that gray values are numbers or shades of objects."""
        largest = used[-1]
        dark = used[(used > 0) & (used < largest * 7 / 8)]
        is_white = largest >= (224 if largest < 256 else 57344)
        if is_white and len(dark) and dark.max() <= (largest + 1) / 2:
            raise self._unclear(
                f'{largest} next to {_show(dark)} may be void, an object or a bright pixel next to '
                'noise', readings, f'{_BINARY}, with void as 0')
        if largest >= _NUMBERS_BELOW and edges > max(len(used) - edges, _FEW):
            if numbered:
                raise self._soft_numbers(edges, *readings.values())
            raise self._unclear(f'{edges} of its {len(used)} values are along edges only', readings)
        if self.is_jpeg or (not numbered and largest >= 128 and len(used) > _FEW + 1):
            raise self._unclear(f'{len(used)} values may be objects or shades of one', readings)

    def _soft_numbers(self, edges: int, marked: np.ndarray, bright: np.ndarray) -> DatasetError:
        return self._unclear(
            f'{edges} of its values are along edges only, as in a mask with soft edges',
            {_NOT_ZERO: marked, _BRIGHT: bright},
            'save the objects\' numbers without smoothing, or set `index_masks=False`')

    def _unclear(self, why: str, readings: dict[str, np.ndarray],
                 hint: str = _BINARY) -> DatasetError:
        total = next(iter(readings.values())).size
        found = ', '.join(f'{mask.sum():,} by "{name}"' for name, mask in readings.items())
        return DatasetError(f'{self.path} can be read in several ways, since {why}: of its '
                            f'{total:,} pixels the object would have {found}; {hint}',
                            'unclear mask')


def _find_void(decoded: _Decoded, visible: np.ndarray) -> np.ndarray:
    """Void (H, W) bool among visible colors, in an image with transparency; none in gray values."""
    void = np.zeros(visible.shape, bool)
    if decoded.is_gray:
        return void
    if decoded.entries is not None:
        values = np.where(visible, decoded.values, 0)
        void |= _is_void_entry(values, _unique(values))
    colors = np.where(visible, decoded.colors, 0)
    used = _unique(colors)
    return void if _has_shades(colors, used) else void | _is_void_color(colors, used)


def _is_void_entry(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Where entries of a palette are void: 255 next to those of objects."""
    others = used[(used > 0) & (used < _VOID_INDEX)]
    beside_few = len(others) > 0 and others[-1] <= _VOID_INDEX // 2
    return (values == _VOID_INDEX) & beside_few


def _is_void_color(colors: np.ndarray, used: np.ndarray) -> np.ndarray:
    return (colors == _VOID_COLOR) & (len(used) > 2)


def _has_shades(colors: np.ndarray, used: np.ndarray) -> bool:
    """Whether more colors lie along edges than fill areas, as in soft edges and photographs."""
    flat = len(_flat(colors))
    return len(used) - flat > max(flat, _FEW)


def _pack(colors: np.ndarray) -> np.ndarray:
    """0xRRGGBB of (..., 3)."""
    packed = colors[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= colors[..., channel]
    return packed


def _unique(values: np.ndarray) -> np.ndarray:
    """``np.unique`` for values from 0 to 2**24, without the time and memory of sorting."""
    seen = np.zeros(int(values.max(initial=0)) + 1, bool)
    for part in np.array_split(values.ravel(), values.size // 2**20 + 1):
        seen[part] = True
    return np.flatnonzero(seen)


def _flat(values: np.ndarray) -> np.ndarray:
    """The values that fill a square of 2 x 2 pixels somewhere; those of soft edges rarely do."""
    corner = values[:-1, :-1]
    is_flat = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    return _unique(corner[is_flat])


def _show(values: np.ndarray) -> str:
    return ', '.join(map(str, values[:5])) + (', ...' if len(values) > 5 else '')
