# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks a policy's family against plain transformers: prompts, log-probabilities, gradients,
samples.

    python tools/analysis_tools/check_family.py FOLDER --import my_family

FOLDER holds tiny random weights or real ones. The exit status is 1 if anything disagrees.
docs/policies.md shows how to add a family.
"""

from __future__ import annotations

import argparse
import importlib

from mmdpad.utils import start_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('folder', help='a policy in Hugging Face format, or its hub name')
    parser.add_argument('--import', dest='modules', action='append', default=[], metavar='MODULE',
                        help='module that registers the family, as in `custom_imports`')
    parser.add_argument('--dtype', default='float32', help='type of the weights (default: '
                        'float32); float64 shows smaller differences, 16 bits only gross ones')
    parser.add_argument('--device', default='cpu', help='such as cuda (default: cpu)')
    parser.add_argument('--model-image', type=int, nargs=2, default=(840, 840),
                        metavar=('WIDTH', 'HEIGHT'), help='model image of the prompt whose tokens '
                        'are counted (default: 840 840)')
    parser.add_argument('--no-gradients', action='store_true', help='compare no gradients, which '
                        'take three times the memory of the weights')
    args = parser.parse_args()
    with start_command():
        from mmdpad.models.heads.families import find_family
        from mmdpad.models.precision import read_dtype
        from mmdpad.preflight.check_family import check_family
    wrong = 0
    try:
        read_dtype('--dtype', args.dtype)
        for module in args.modules:
            importlib.import_module(module)
        print(f'{args.folder}: {find_family(args.folder).name}')
        for finding in check_family(args.folder, args.dtype, args.device,
                                    tuple(args.model_image), not args.no_gradients):
            print(finding, flush=True)
            wrong += finding.agrees is False
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if wrong:
        raise SystemExit(f'{wrong} comparison(s) with transformers failed: do not train this '
                         'family this way')


if __name__ == '__main__':
    main()
