# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Converts a table of questions with images inside (VLMEvalKit's benchmarks, TreeBench) to JSON
lines with image files.

    python tools/dataset_converters/tsv_questions.py TreeBench.tsv data/treebench

docs/question_answering.md describes the table. OUT appears only once it is complete, and is never
overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdpad.utils import refuse_existing, start_command


def parse_arguments(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('source', metavar='TSV', help='the table')
    parser.add_argument('destination', metavar='OUT', type=Path, help='a new folder')
    parser.add_argument('--evidence', metavar='COLUMN', help='column with boxes of the evidence '
                        '(default: target_instances, if there is one)')
    parser.add_argument('--question-type', metavar='COLUMN', default='category', help='column by '
                        'which accuracies are also reported (default: category, if there is one)')
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> None:
    args = parse_arguments(command_line)
    with start_command():
        from mmdpad.datasets import DatasetError
        from mmdpad.datasets.conversion.tsv_questions import LINES, convert_tsv
    try:
        refuse_existing(args.destination)
        number = convert_tsv(args.source, args.destination, args.evidence, args.question_type)
    except (DatasetError, OSError) as error:
        raise SystemExit(str(error)) from error
    print(f'{args.destination}: {number} questions. In a config:\n'
          f"dict(type='AnswerLinesDataset', ann_file={str(args.destination / LINES)!r})")


if __name__ == '__main__':
    main()
