# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Merges the shards of a checkpoint folder into one file.

    python tools/model_converters/merge_shards.py FOLDER [FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdpad.utils import refuse_existing, start_command
from mmdpad.utils.files import atomic_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='iter_N.pth of a run with FSDP2Strategy')
    parser.add_argument('file', type=Path, nargs='?',
                        help='the new file (default: FOLDER with the suffix .merged.pth)')
    args = parser.parse_args()

    with start_command():
        import torch

        from mmdpad.engine.strategies import merge_shards
    file = args.file or args.folder.with_suffix('.merged.pth')
    try:
        refuse_existing(file)
        checkpoint = merge_shards(args.folder)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    with atomic_file(file) as stream:
        torch.save(checkpoint, stream)
    print(file)


if __name__ == '__main__':
    main()
