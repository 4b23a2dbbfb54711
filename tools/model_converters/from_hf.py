# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Converts a folder in Hugging Face format, or with a LoRA adapter, to a checkpoint.

    python tools/model_converters/from_hf.py FOLDER OUT.pth
    python tools/model_converters/from_hf.py ADAPTER OUT.pth --base FOLDER
    python tools/test.py CONFIG OUT.pth

The reverse of to_hf.py. `tools/test.py` and `load_from` read OUT.pth with a config whose
`model.policy` has the same size or, for an adapter, the printed settings. For an adapter, OUT.pth
holds its scaling, so that a config with another one is refused.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmdpad.utils import refuse_existing, start_command
from mmdpad.utils.files import atomic_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', metavar='FOLDER', help='with config.json and weights, or with '
                        'adapter_config.json and an adapter')
    parser.add_argument('out', metavar='OUT.pth', help='the new file; it must not exist')
    parser.add_argument('--base', help='base model of an adapter, a folder or a hub name; only its '
                        'config.json is read (default: the one in adapter_config.json)')
    args = parser.parse_args()

    with start_command():
        import torch

        from mmdpad.models.hf_folder import import_policy
    try:
        refuse_existing(args.out)
        state, settings = import_policy(args.folder, args.base)
        os.makedirs(Path(args.out).absolute().parent, exist_ok=True)
        with atomic_file(args.out) as file:
            torch.save(dict(state_dict=state, meta=dict(source=Path(args.folder).name)), file)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(str(error)) from error
    print(f'{args.out}: {len(state)} tensors')
    if settings:
        print(f'for a config with `model = dict(policy=dict({settings}))`')


if __name__ == '__main__':
    main()
