# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reports the findings of a study: headline, tables, curves and answers side by side.

    python tools/analysis_tools/study_report.py work_dirs/study --html report.html
    python tools/analysis_tools/study_report.py work_dirs/study --markdown study_appendix.md
    python tools/analysis_tools/study_report.py work_dirs/study --summary study.md
    python tools/analysis_tools/study_report.py work_dirs/study --compare form_sigmoid form_softmax
    python tools/analysis_tools/study_report.py work_dirs/study --archive study.tar.xz

An archive holds the numbers and curves without the responses and can replace the study's folder.
Prints the headline. An existing file is replaced; in a Markdown page, only the part between
`<!-- study -->` and `<!-- /study -->`. Run this where the image paths are valid, usually in the
folder in which the study was started. Runs that lack files are left out and named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmdpad.utils import jsonable, start_command
from mmdpad.utils.files import atomic_file


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode('utf-8'))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path,
                        help='the study: ARM/arm.json, ARM/seed_N/...; or its archive')
    parser.add_argument('--html', type=Path, metavar='FILE', help='the full report as a page')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='headline and all tables')
    parser.add_argument('--summary', type=Path, metavar='FILE', help='Markdown, main tables only')
    parser.add_argument('--json', type=Path, metavar='FILE', help='all numbers')
    parser.add_argument('--archive', type=Path, metavar='FILE',
                        help='the data behind the numbers and curves, as FILE.tar.xz')
    parser.add_argument('--compare', nargs=2, action='append', default=[],
                        metavar=('ARM', 'REFERENCE'),
                        help='also compare one arm with another; may be repeated')
    args = parser.parse_args()

    with start_command():
        from mmdpad.analysis.pages.study_page import (
            MAIN,
            comparison_lines,
            headlines,
            missing_lines,
            study_as_html,
            study_as_markdown,
            summary_as_markdown,
        )
        from mmdpad.analysis.study import analyze_study, first_answers
        from mmdpad.analysis.study_archive import open_study, write_study_archive
        from mmdpad.datasets.transforms import read_image_if_any
        from mmdpad.utils.markdown import put_block
    try:
        with open_study(args.work_dir) as folder:
            study = analyze_study(folder, args.compare)
            for line in [f'{status}: {text}' for status, text in headlines(study)]:
                print(line)
            for pair in args.compare:
                for line in comparison_lines(study, *pair):
                    print(line)
            for line in missing_lines(study):
                print(f'  missing: {line}')
            if args.html:
                pairs = first_answers(folder, study, MAIN) if folder == args.work_dir else None
                write(args.html, study_as_html(study, folder, pairs, read_image_if_any))
            if args.archive:
                write_study_archive(folder, args.archive)
                print(args.archive)
        for path, as_markdown in ((args.markdown, study_as_markdown),
                                  (args.summary, summary_as_markdown)):
            if path:
                block = as_markdown(study)
                page = path.read_text(encoding='utf-8') if path.exists() else None
                write(path, block + '\n' if page is None else put_block(page, block))
        if args.json:
            write(args.json, json.dumps(jsonable(study), indent=1) + '\n')
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
