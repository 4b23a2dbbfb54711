# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains the toy models from scratch: `python tools/toy/make_all.py [--out DIR]`.

Runs make_clip.py, make_sam.py, make_policy.py, make_loose_boxes.py, make_tasks.py and make_zoom.py
one after the other, each in its own process, and writes README.md with their measurements. Nothing
is downloaded.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from arguments import WEIGHTS

PARTS = ('clip', 'sam', 'policy', 'loose_boxes', 'tasks', 'zoom')
LIBRARIES = ('torch', 'transformers', 'tokenizers', 'open_clip_torch', 'segment-anything',
             'opencv-python', 'numpy')
LIMIT = 15_000_000


def write_readme(folder: Path) -> None:
    """Write README.md from the reports of the scripts, and remove the reports."""
    lines = [
        '# Toy weights', '',
        'Tiny models of the shapes world (`mmdpad/toy/shapes_world.py`), in the formats of '
        'the real ones (the study has its own in `configs/study/weights/`):', '',
        '- `policy/`: a Qwen2.5-VL for transformers\' `from_pretrained`',
        '- `loose_boxes/`: the same after some steps on loose boxes, the start of `make demo` '
        '(`tools/toy/make_loose_boxes.py`)',
        '- `tasks/`: `policy/` after steps on detection and question answering, the start of '
        '`tiny_shapes_ovd.py` and `tiny_shapes_vqa.py` (`tools/toy/make_tasks.py`)',
        '- `zoom/`: `policy/` after steps on tiny objects, the start of `tiny_shapes_zoom.py` '
        '(`tools/toy/make_zoom.py`)',
        '- `clip/`: an open_clip folder, `local-dir:.../clip`',
        '- `sam/sam_shapes.pth`: a state dict for segment-anything, '
        '`sam_model_registry[\'vit_shapes\']` (`mmdpad/toy/sam.py`)', '',
        'Stored in half precision; loaders cast to float32. This file and everything beside it '
        'were written by', '', '    python tools/toy/make_all.py', '',
        'from fixed seeds, with ' + ', '.join(f'{name} {version(name)}' for name in LIBRARIES)
        + '. Minutes are on one CPU core shared with other work. Other versions or machines give '
        'slightly different weights of the same quality. Qualities are measured on held-out '
        'scenes (split `val`) with the saved files.'
    ]
    for part in PARTS:
        lines += table(folder / part, folder / f'{part}_report.json')
    write_page(folder / 'README.md', lines)
    for part in PARTS:
        (folder / f'{part}_report.json').unlink()


def write_page(path: Path, lines: list[str]) -> None:
    """Write lines of Markdown, broken to the usual width."""
    from mmdpad.utils.markdown import wrap_markdown
    path.write_text(wrap_markdown('\n'.join(lines) + '\n'), encoding='utf-8')


def table(part: Path, report: Path) -> list[str]:
    """Format the size of a model's folder and its measurements as lines of Markdown."""
    numbers = json.loads(report.read_text(encoding='utf-8'))
    size = sum(file.stat().st_size for file in part.rglob('*') if file.is_file())
    return ['', f'## {part.name} ({size / 1e6:.2f} MB)', '',
            '| quantity | value |', '| --- | --- |',
            *(f'| {key.replace("_", " ")} | {value} |' for key, value in numbers.items())]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=WEIGHTS, help='destination folder')
    parser.add_argument('--scale', type=float, default=1.0,
                        help='train for this share of the full number of steps')
    args = parser.parse_args()
    here = Path(__file__).resolve().parent
    for part in PARTS:
        subprocess.run([sys.executable, str(here / f'make_{part}.py'), '--out',
                        str(args.out / part), '--scale', str(args.scale)], check=True)
    write_readme(args.out)
    size = sum(path.stat().st_size for part in PARTS for path in (args.out / part).rglob('*')
               if path.is_file())
    print(f'{args.out}: {size / 1e6:.2f} MB')
    if size > LIMIT:
        sys.exit(f'the weights should take less than {LIMIT / 1e6:.0f} MB, but take '
                 f'{size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
