# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Stores the sources of a study's numbers and curves in one small file.

An archive (``.tar.xz``) has the folders of a study (:mod:`.study`) with the files that
:func:`.study.analyze_study` reads, reduced to the entries it uses: no responses, no masks.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mmdpad.utils import read_jsonl
from mmdpad.utils.files import atomic_file

from .study import KINDS, MODES, NO_SIGNAL

CURVES = ('step', 'iter', 'reward', 'reward/discriminative', 'reasoning_tokens', NO_SIGNAL)
"""Keys of a training log: for :func:`mmdpad.visualization.curves.plot_seeds` and the tables."""
_ARM = r'\w[\w. +-]*'  # no '..', which would leave the folder
_SEED = rf'{_ARM}/seed_\d+'
_KEPT: dict[str, tuple[str, ...]] = {
    rf'{_SEED}/(?:{"|".join(MODES)})\.{kind}\.jsonl': ('image', 'question', *names)
    for kind, names in KINDS.items()}
_KEPT[rf'{_SEED}/train/\w+/vis_data/scalars\.json'] = CURVES
"""Pattern of a file's path in the study's folder -> the keys of a line to keep."""
_ABOUT = rf'{_ARM}/arm\.json'
_PLACES = ('*/arm.json', '*/seed_*/*.jsonl', '*/seed_*/train/*/vis_data/scalars.json')
"""Where such files are, as patterns that follow links to folders, which `**` does not."""


def write_study_archive(folder: Path, path: Path) -> None:
    """Write the archive of a study, replacing an existing one. Equal studies give equal bytes.

    Raises:
        ValueError: ``folder`` has no arm, the name of an arm has characters that archives do not
            take, or a line of a file is not a JSON object.
    """
    names = sorted(file.relative_to(folder).as_posix()
                   for place in _PLACES for file in folder.glob(place))
    about = [name for name in names if re.fullmatch(r'[^/]+/arm\.json', name)]
    for name in about:
        if not re.fullmatch(_ABOUT, name):
            arm = name.partition('/')[0]
            raise ValueError(f'The name of an arm should start with a letter or digit and have '
                             f'only these, blanks and any of "_.+-", but got {arm!r}; rename its '
                             f'folder')
    if not about:
        raise ValueError(f'{folder} should be the folder of a study, with ARM/arm.json for each '
                         f'arm, but has none; run `mmdpad run run_study` first')
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file, tarfile.open(
            fileobj=file, mode='w:xz', preset=9 | lzma.PRESET_EXTREME) as archive:
        for name in about:
            _add(archive, name, (folder / name).read_text(encoding='utf-8'))
        # Grouped by kind, because similar data compress better together.
        for pattern, keys in _KEPT.items():
            for name in names:
                if re.fullmatch(pattern, name):
                    _add(archive, name, _only(folder / name, keys))


@contextmanager
def open_study(path: Path) -> Iterator[Path]:
    """The folder of a study: ``path`` itself or, for an archive, a temporary one.

    Raises:
        ValueError: ``path`` is a file, but not an archive of a study.
    """
    if not path.is_file():
        yield path
        return
    with TemporaryDirectory() as folder:
        try:
            with tarfile.open(path, 'r:xz') as archive:
                for member in archive:
                    _extract(archive, member, Path(folder))
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise ValueError(f'{path} should be a complete archive of a study, but cannot be read '
                             f'({error}); restore it or recreate it with --archive') from error
        yield Path(folder)


def _only(path: Path, keys: Sequence[str]) -> str:
    return ''.join(json.dumps({key: row[key] for key in keys if key in row}) + '\n'
                   for row in read_jsonl(str(path)))


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member, data = tarfile.TarInfo(name), text.encode()
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    file = archive.extractfile(member)
    if file is None or not any(re.fullmatch(name, member.name) for name in (_ABOUT, *_KEPT)):
        raise tarfile.TarError(f'it holds {member.name!r}, which is not a file of a study')
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read())
