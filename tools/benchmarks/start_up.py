# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times how two checkouts start: imports, a help text, an answer's first token, a smoke test.

    git worktree add ../mmdpad_before main
    python tools/benchmarks/start_up.py --before ../mmdpad_before

Each run is a new process; `mmdpad` (this checkout) and `before` take turns, case by case.

Prints JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from builds import add_before, builds, imports_from

CONFIG = 'configs/dpad/qwen7b_reasonseg.py'
FIRST_TOKEN = '''
import sys
from contextlib import nullcontext
try:
    from mmdpad.utils import start_command
    context = start_command()
except ImportError:  # a checkout from before there was one
    context = None
with context or nullcontext():
    from mmdpad.apis import ReasonSegInferencer
    infer = ReasonSegInferencer('mmdpad::dpad/tiny_shapes.py', device='cpu')
print(next(infer.stream(sys.argv[1], 'What keeps the rain off?')))
'''
# Name -> arguments of Python; {image} is a toy scene.
CASES = {
    'import mmdpad.apis': ['-c', 'import mmdpad.apis'],
    'ReasonSegInferencer': ['-c', 'from mmdpad.apis import ReasonSegInferencer'],
    'help': ['tools/analysis_tools/report.py', '--help'],
    'first token': ['-c', FIRST_TOKEN, '{image}'],
    'doctor': ['-m', 'mmdpad', 'doctor'],
    'smoke': ['tools/train.py', CONFIG, '--smoke']}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_before(parser, required=True)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--repeats', type=int, default=3)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

from common import alternate, environment, print_json, summary
from PIL import Image

from mmdpad.toy.shapes_world import make_scene


def command(tree: Path, arguments: list[str]) -> Callable[[], None]:
    """A function that runs a Python process which imports mmdpad from this checkout."""
    def run() -> None:
        with imports_from(tree):
            done = subprocess.run([sys.executable, *arguments], cwd=tree, text=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # A doctor that finds a problem exits with 1 but does the same work.
        if done.returncode and 'doctor' not in arguments:
            raise SystemExit(f'{arguments} failed in {tree}:\n{done.stderr}')

    return run


def main() -> None:
    args = parse_args()
    about = environment()
    trees = builds(args)
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder, 'scene.png'))
        Image.fromarray(make_scene('test', 3).image).save(image)
        for case in args.cases:
            arguments = [image if part == '{image}' else part for part in CASES[case]]
            cases[case] = summary(alternate(
                {name: command(tree, arguments) for name, tree in trees.items()}, args.repeats))
    print_json(dict(environment=about, setting=dict(repeats=args.repeats), cases=cases))


if __name__ == '__main__':
    main()
