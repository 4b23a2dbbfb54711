# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Files of the RefCOCO family: COCO annotations, and expressions that refer to them.

``instances.json`` is COCO's. A file of references, ``refs(unc).p`` (a pickle) or
``grefs(unc).json``, contains a list of dicts with ``ref_id``, ``image_id``, ``split``, ``ann_id``
and ``sentences``, a list of dicts with ``sent_id``, ``raw`` (the expression as typed) and other
keys that are not needed. In gRefCOCO ``ann_id`` is a list, [-1] for no target, and some references
have no sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmdpad.utils.safe_pickle import load_safe_pickle

from .annotation_fields import read_json, unreadable
from .errors import DatasetError

NO_TARGET = -1


@dataclass(frozen=True)
class Reference:
    """One object (or several, or none) in an image, and the expressions that refer to it.

    ``ann_ids`` are ids of COCO annotations, empty for no target. ``texts`` are as typed, one for
    each of ``sent_ids``; there may be none.
    """
    ref_id: int
    image_id: int
    ann_ids: tuple[int, ...]
    texts: tuple[str, ...]
    sent_ids: tuple[int, ...]


def read_references(path: str) -> list[dict]:
    """The references in a file, unchanged; only ``split`` is checked.

    Raises:
        DatasetError: The file is missing, or not a list of dicts with a ``split``.
    """
    refs = _load(path)
    if not isinstance(refs, list) or not refs or not all(
            isinstance(ref, dict) and isinstance(ref.get('split'), str) for ref in refs):
        raise DatasetError(f'{path} should contain a list of references with a `split` each, but '
                           'does not; download it again', 'unusable file')
    return refs


def parse_reference(ref: dict, path: str) -> Reference:
    """Check an entry of the file ``path`` and convert it.

    Raises:
        DatasetError: A field is missing or has the wrong type.
    """
    ann_ids, sentences = ref.get('ann_id'), ref.get('sentences')
    if not isinstance(ann_ids, list):
        ann_ids = [ann_ids]
    if not (type(ref.get('ref_id')) is int and type(ref.get('image_id')) is int):
        raise _wrong(ref, path, '`ref_id` and `image_id`, integers')
    if not ann_ids or not all(type(i) is int for i in ann_ids) or (
            NO_TARGET in ann_ids and len(ann_ids) > 1):
        raise _wrong(ref, path, '`ann_id`, an integer, a list of them, or [-1] for no target')
    if not isinstance(sentences, list) or not all(
            isinstance(s, dict) and type(s.get('sent_id')) is int and isinstance(s.get('raw'), str)
            for s in sentences):
        raise _wrong(ref, path, '`sentences`, a list of dicts with `sent_id` (integer) and `raw` '
                     '(text)')
    return Reference(
        ref['ref_id'], ref['image_id'], tuple(i for i in ann_ids if i != NO_TARGET),
        tuple(s['raw'] for s in sentences), tuple(s['sent_id'] for s in sentences))


def read_instances(path: str) -> dict[str, list[dict]]:
    """COCO's ``images``, with ``id``, ``file_name``, ``height`` and ``width``, and
    ``annotations``, with ``id``, ``image_id`` and ``segmentation``.

    Raises:
        DatasetError: The file is missing or malformed.
    """
    instances = _load(path)
    for name, fields in (('images', dict(id=int, file_name=str, height=int, width=int)),
                         ('annotations', dict(id=int, image_id=int, segmentation=object))):
        entries = instances.get(name) if isinstance(instances, dict) else None
        if not isinstance(entries, list) or not all(
                isinstance(entry, dict) and all(
                    isinstance(entry.get(key), kind) for key, kind in fields.items())
                for entry in entries):
            raise DatasetError(f'`{name}` of {path} should be a list of dicts with '
                               f'{", ".join(f"`{key}`" for key in fields)}, as in COCO, but is '
                               'not; download it again', 'unusable file')
    return instances


def _load(path: str) -> Any:
    """The content of a ``.json`` file or, for any other suffix, of a pickle of plain data."""
    if path.endswith('.json'):
        return read_json(path)
    try:
        return load_safe_pickle(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise DatasetError(str(error), 'unusable file') from error


def _wrong(ref: dict, path: str, wanted: str) -> DatasetError:
    shown = str({key: ref.get(key) for key in ('ref_id', 'image_id', 'ann_id', 'sentences')})
    return DatasetError(f'A reference in {path} should have {wanted}, but got {shown[:120]}; '
                        'correct or remove it', 'wrong reference')
