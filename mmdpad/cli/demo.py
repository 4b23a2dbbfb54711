# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad demo [CONFIG]`, also `python tools/web_demo.py [CONFIG]`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence

from mmdpad.utils import check_config, check_file, start_command

_HINT = 'the demo page needs gradio 6 or newer: pip install "gradio>=6.0"'
_MOST_MEGAPIXELS = 89  # from MAX_PIXELS, without importing torch


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Check the command line, load the models, and serve the page until Ctrl-C.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With a message about what is wrong.
    """
    args = _parse(argv, prog)
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_ANALYTICS_MAX_EVENTS'] = '1'  # events are kept and counted per question
    # Handle it like Ctrl-C; otherwise the folder would be left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix='mmdpad_demo_') as folder:
        # Uploads and pictures are deleted when the program ends.
        os.environ['GRADIO_TEMP_DIR'] = folder
        with start_command():
            try:
                from mmdpad.apis.demo_page.page import build_page, open_page
            except ImportError as error:
                raise SystemExit(f'{error}; {_HINT}') from error
            from mmdpad.apis.demo_page.examples import write_examples
            from mmdpad.apis.demo_page.loading import load_model
            models = [load_model(config, weights, args.device)
                      for config, weights in args.checkpoints]
        page = build_page(models, write_examples(folder), args.max_megapixels * 10**6,
                          args.queue)
        open_page(page, args.host, args.port, args.share)


def _parse(argv: Sequence[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The arguments, plus ``checkpoints``: one or two pairs of a config's path and weights.

    Raises:
        SystemExit: An argument is invalid; nothing has been loaded yet.
    """
    parser = argparse.ArgumentParser(
        prog, description='A browser page: ask questions about images, watch the reasoning, see '
        'the mask.')
    parser.add_argument('config', nargs='?', default='tiny_shapes', help='path of a config, or '
                        'the name of one shipped with mmdpad (default: tiny_shapes, the toy '
                        'model, whose weights are included)')
    parser.add_argument('--weights', metavar='FILE', help='a training checkpoint (default: the '
                        'weights that the config names)')
    parser.add_argument('--second', metavar='CONFIG', help='a second model that answers beside '
                        'the first (default with --second-weights: CONFIG itself)')
    parser.add_argument('--second-weights', metavar='FILE', help='checkpoint of the second model')
    parser.add_argument('--device', help='where the models run (default: a GPU if available)')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: '
                        '127.0.0.1, this machine only)')
    parser.add_argument('--port', type=_count(1, 65535), default=7860, help='default: 7860')
    parser.add_argument('--share', action='store_true', help='also serve at a public address '
                        "through gradio's own service, open to anyone who knows it")
    parser.add_argument('--queue', type=_count(1, 10**6), default=16, metavar='N',
                        help='questions that may wait; more are refused (default: 16)')
    parser.add_argument('--max-megapixels', type=_count(1, _MOST_MEGAPIXELS), default=40,
                        metavar='N', help=f'largest image to decode, at most '
                        f'{_MOST_MEGAPIXELS} (default: 40)')
    args = parser.parse_args(argv)
    check_file('--weights', args.weights)
    check_file('--second-weights', args.second_weights)
    args.checkpoints = [(args.config, args.weights)]
    if args.second or args.second_weights:
        args.checkpoints.append((args.second or args.config, args.second_weights))
    args.checkpoints = [(check_config(config), weights) for config, weights in args.checkpoints]
    try:
        socket.create_server((args.host, args.port)).close()
    except OSError as error:
        raise SystemExit(f'cannot listen on {args.host}:{args.port} ({error}); name another '
                         f'--port or --host') from error
    return args


def _count(low: int, high: int) -> Callable[[str], int]:
    """A parser for integers in a range."""
    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'should be an integer from {low} to {high}, but is '
                                             f'{text!r}')
        return int(text)
    return number
