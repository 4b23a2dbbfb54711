# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimates tokens, operations and GPU memory for a config's training step.

    python tools/analysis_tools/estimate_cost.py configs/dpad/qwen7b_reasonseg.py
    python tools/analysis_tools/estimate_cost.py CONFIG --gpus 8 --gpu-memory 80 --json

Only config.json and the tokenizer are loaded, if they exist locally or in the hub's cache. Without
a config.json, the shape of a published Qwen-VL model is chosen by its name. The sources and
assumptions are printed.
"""

from __future__ import annotations

import json

from mmdpad.utils import config_parser, jsonable, load_config, start_command


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0], 'train_dataloader.batch_size=8')
    parser.add_argument('--gpus', type=int, default=1, metavar='N',
                        help='processes with one GPU and one batch each (default 1)')
    parser.add_argument('--gpu-memory', type=float, metavar='GB',
                        help='memory of one GPU, in 10^9 bytes, to report what fits')
    parser.add_argument('--response-tokens', type=int, metavar='R',
                        help='mean length of a response, or of each turn of a conversation '
                             '(default: an assumption)')
    parser.add_argument('--prompt-tokens', type=int, metavar='P',
                        help='length of a prompt, image included (default: counted or assumed)')
    parser.add_argument('--json', action='store_true', help='machine-readable, in bytes and FLOPs')
    args = parser.parse_args()
    for name in ('gpus', 'gpu_memory', 'response_tokens', 'prompt_tokens'):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f'--{name.replace("_", "-")} should be positive, but got {value}')
    with start_command():
        config = load_config(args)

        from mmdpad.preflight.cost import (
            format_report,
            make_report,
            read_config_cost,
            with_response_tokens,
        )
    try:
        cost = read_config_cost(config, args.response_tokens, args.prompt_tokens)
        longest = with_response_tokens(cost, config, cost.max_tokens)
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(str(error)) from error
    report = make_report(cost, args.gpus, args.gpu_memory, longest)
    print(json.dumps(jsonable(report), indent=2) if args.json else format_report(report), end='')


if __name__ == '__main__':
    main()
