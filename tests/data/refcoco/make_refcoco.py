# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Make the data sets of this folder: RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, in small.

    python tests/data/refcoco/make_refcoco.py OUT

OUT gets the layout that mmdet's configs expect of ``data/coco/``. Images are drawn, expressions
are ours, and files have the form of the published ones: COCO's ``instances.json``, ``refs(*).p`` as
Python 2 pickled it (``python2_pickle`` gives the bytes of its cPickle), ``grefs(unc).json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Polygon = list[float]

# id: (width, height)
IMAGES = {9: (64, 48), 25: (40, 56), 30: (64, 48)}
# id: (image id, colour, polygons)
OBJECTS: dict[int, tuple[int, str, list[Polygon]]] = {
    101: (9, 'red', [[4, 6, 24, 6, 24, 26, 4, 26]]),
    102: (9, 'blue', [[34.5, 20.25, 58, 20.25, 46, 44]]),
    103: (9, 'blue', [[30, 2, 36, 2, 36, 8, 30, 8], [50, 2, 58, 2, 58, 8, 50, 8]]),
    201: (25, 'green', [[0, 30, 40, 30, 40, 56, 0, 56]]),
    202: (25, 'yellow', [[10, 4, 28, 4, 19, 20]]),
    301: (30, 'white', [[20, 10, 44, 10, 44, 34, 20, 34]]),
    302: (30, 'red', [[2, 38, 12, 38, 12, 46, 2, 46]]),
}
CROWD = 900100000009  # an id of COCO's crowds: many things in one uncompressed RLE, in image 9

# split, annotation id, expressions as typed
UNC = [
    ('train', 301, ['THE WHITE SQUARE', 'big square', 'middle one']),
    ('val', 201, ['green ground.', 'the lower half']),
    ('testB', 202, ['yellow triangle']),
    ('testA', 102, ['blue triangle', 'Right, pointing down...', 'not red']),
    ('testA', 101, ['red square', 'left']),
    ('testA', 102, ['lower right']),
    ('testA', 302, ['red thing in the corner']),
]
PLUS = [
    ('train', 301, ['white square']),
    ('val', 201, ['green one']),
    ('testA', 101, ['red', 'largest square']),
    ('testB', 202, ['yellow']),
]
UMD = [
    ('train', 301, ['the white square with nothing on it']),
    ('val', 201, ['the green ground that everything stands on']),
    ('test', 101, ['The red square above and left of the triangle.', 'the red square']),
    ('test', 202, ['small yellow triangle, the caf\xe9 sign']),
]
GOOGLE = [('train', 301, ['white square']), ('val', 101, ['red square'])]
# split, annotation ids (none: no target), expressions
GREFS: list[tuple[str, list[int], int, list[str]]] = [
    ('train', [301], 30, ['white square']),
    ('val', [101, 103], 9, ['red square and the pair of blue squares']),
    ('val', [], 9, ['the person with a hat']),
    ('val', [201], 25, []),  # the published file has references without a sentence, too
    ('testA', [102], 9, ['blue triangle']),
    ('testA', [101, 102, CROWD], 9, ['everything but small squares', 'all large shapes']),
    ('testB', [], 25, ['red square']),
]


def file_name(image_id: int) -> str:
    return f'COCO_train2014_{image_id:012d}.jpg'


def draw_image(image_id: int) -> Image.Image:
    image = Image.new('RGB', IMAGES[image_id], 'black')
    for where, colour, polygons in OBJECTS.values():
        for polygon in polygons if where == image_id else ():
            ImageDraw.Draw(image).polygon(polygon, colour)
    return image


def make_instances(image_ids: list[int]) -> dict:
    images = [
        dict(license=3, file_name=file_name(i),
             coco_url=f'http://example.org/train2014/{file_name(i)}', height=IMAGES[i][1],
             width=IMAGES[i][0], date_captured='2013-11-14 16:28:13',
             flickr_url='http://example.org/photo.jpg', id=i) for i in image_ids
    ]
    annotations = [make_annotation(i) for i, item in OBJECTS.items() if item[0] in image_ids]
    width, height = IMAGES[9]
    annotations.append(dict(
        segmentation=dict(counts=[width * height - 40, 40], size=[height, width]), area=40,
        iscrowd=1, image_id=9, bbox=[width - 1, height - 40, 1, 40], category_id=1, id=CROWD))
    return dict(
        info=dict(description='Made for tests in the form of COCO 2014', version='1.0', year=2014),
        images=images, licenses=[dict(url='http://www.apache.org/licenses/LICENSE-2.0', id=3,
                                      name='Apache License 2.0')],
        annotations=annotations,
        categories=[dict(supercategory='shape', id=1, name='square')])


def make_annotation(ann_id: int) -> dict:
    image_id, _, polygons = OBJECTS[ann_id]
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return dict(segmentation=polygons, area=sum(map(area, polygons)), iscrowd=0, image_id=image_id,
                bbox=box, category_id=1, id=ann_id)


def area(polygon: Polygon) -> float:
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    sides = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in sides)) / 2


def make_sentences(texts: list[str], first: int) -> list[dict]:
    cleaned = [text.lower().replace('.', '').replace(',', '') for text in texts]
    return [dict(tokens=sent.split(), raw=raw, sent_id=first + i, sent=sent)
            for i, (raw, sent) in enumerate(zip(texts, cleaned, strict=True))]


def make_refs(entries: list[tuple[str, int, list[str]]]) -> list[dict]:
    refs, sent_id = [], 0
    for ref_id, (split, ann_id, texts) in enumerate(entries):
        sentences, sent_id = make_sentences(texts, sent_id), sent_id + len(texts)
        image_id = OBJECTS[ann_id][0]
        refs.append(dict(
            sent_ids=[sentence['sent_id'] for sentence in sentences],
            file_name=file_name(image_id).replace('.jpg', f'_{ref_id}.jpg'), ann_id=ann_id,
            ref_id=ref_id, image_id=image_id, split=split, sentences=sentences, category_id=1))
    return refs


def make_grefs() -> list[dict]:
    refs, sent_id = [], 0
    for i, (split, ann_ids, image_id, texts) in enumerate(GREFS):
        sentences, sent_id = make_sentences(texts, sent_id), sent_id + len(texts)
        refs.append(dict(
            ann_id=ann_ids or [-1], category_id=[1] * len(ann_ids) or [-1],
            file_name=file_name(image_id), image_id=image_id, no_target=not ann_ids,
            ref_id=200000 + i, sent_ids=[sentence['sent_id'] for sentence in sentences],
            sentences=sentences, split=split))
    return refs


def python2_pickle(value: Any) -> bytes:
    """What ``cPickle.dumps(value)`` of Python 2 gives for lists, dicts, text and integers: ASCII
    text is its ``str``, other text its ``unicode``; keys are one object wherever they come up.
    (Compared with Python 2.7.18. It treats text of one letter in another way; there is none.)"""
    written: list[bytes] = []
    memo: dict[str, int] = {}
    puts = 0

    def put(key: str | None = None) -> None:
        nonlocal puts
        puts += 1
        written.append(b'p%d\n' % puts)
        if key is not None:
            memo[key] = puts

    def save(item: Any, is_key: bool = False) -> None:
        if isinstance(item, int):
            written.append(b'I%d\n' % item)
        elif isinstance(item, str):
            if is_key and item in memo:
                written.append(b'g%d\n' % memo[item])
                return
            written.append(b'S%s\n' % ascii(item).encode() if item.isascii()
                           else b'V%s\n' % item.encode('raw_unicode_escape'))
            put(item if is_key else None)
        elif isinstance(item, list):
            written.append(b'(l')
            put()
            for entry in item:
                save(entry)
                written.append(b'a')
        else:
            written.append(b'(d')
            put()
            for key, entry in item.items():
                save(key, is_key=True)
                save(entry)
                written.append(b's')

    save(value)
    return b''.join([*written, b'.'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder to write to, such as tests/data/refcoco')
    out = parser.parse_args().out
    (out / 'train2014').mkdir(parents=True, exist_ok=True)
    for image_id in IMAGES:
        draw_image(image_id).save(out / 'train2014' / file_name(image_id), quality=90)
    files = {
        'refcoco/refs(unc).p': python2_pickle(make_refs(UNC)),
        'refcoco+/refs(unc).p': python2_pickle(make_refs(PLUS)),
        'refcocog/refs(umd).p': python2_pickle(make_refs(UMD)),
        'refcocog/refs(google).p': python2_pickle(make_refs(GOOGLE)),
        'grefcoco/grefs(unc).json': json.dumps(make_grefs()).encode(),
    }
    instances = json.dumps(make_instances(list(IMAGES))).encode()
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        (path.parent / 'instances.json').write_bytes(instances)


if __name__ == '__main__':
    main()
