# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Makes the tables of docs/performance.md from the JSON files that the benchmarks print.

    python tools/benchmarks/report.py docs/benchmarks --write docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from mmdpad.utils.markdown import wrap_markdown

START, END = '<!-- tables -->', '<!-- /tables -->'
Rows = list[list[Any]]


def table(head: list[str], rows: Rows) -> str:
    """A table in Markdown; numbers to three digits."""
    def cell(value: Any) -> str:
        return f'{value:.3g}' if isinstance(value, float) else str(value)

    lines = [head, ['---'] * len(head), *([cell(value) for value in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def comparison(result: dict[str, Any]) -> str:
    """Seconds of each side, relative to ours; and, if measured, processor time and memory."""
    memory, ratios = result.get('memory_mb', {}), result.get('memory_ratio', {})
    cpu, peak = result.get('cpu_time'), result.get('peak_memory_mb', {})
    rows: Rows = []
    for name in result['median']:
        rows.append([name, *times(result, name), *(times(cpu, name) if cpu else ())])
        if peak:
            rows[-1].append(int(peak[name]))
        if memory:
            rows[-1] += [int(memory[name]['update']), ratios.get(name, '')]
    unit = f' per {result["unit"]}' if 'unit' in result else ''
    head = ['', f'seconds{unit}', 'times as long', 'in single turns']
    return table(head + (['CPU seconds', 'times as long', 'in single turns'] if cpu else []) +
                 (['peak MB'] if peak else []) +
                 (['MB of the update', 'ours / this'] if memory else []), rows)


def times(result: dict[str, Any], name: str) -> list[Any]:
    """Median seconds of a side; relative to ours: the ratio and its range in single turns."""
    low, high = result['ratio_range'].get(name, ('', ''))
    return [result['median'][name], result['ratio'].get(name, ''),
            f'{low:.2f} - {high:.2f}' if name in result['ratio'] else '']


def scaling(result: dict[str, Any]) -> str:
    """Measured and expected values for each point."""
    head = ['G', 'tokens', 'side', 's', 'expected', 'naive, s', 'expected', 'ratio', 'expected',
            'MB', 'expected', 'naive, MB', 'expected']
    rows = []
    for row in sorted(result['rows'], key=lambda r: (r['group_size'], r['tokens'], r['side'])):
        ours, naive = row['mmdpad'], row['naive']
        rows.append([row['group_size'], row['tokens'], row['side'], ours['seconds'],
                     ours['expected_seconds'], naive['seconds'], naive['expected_seconds'],
                     row['ratio'], row['expected_ratio'],
                     *(int(side[key]) for side in (ours, naive) for key in ('mb', 'expected_mb'))])
    return table(head, rows)


def busy(result: dict[str, Any]) -> str:
    """Seconds per iteration beside busy processes, and relative to none."""
    loads = list(next(iter(result['median'].values())))
    head = [''] + [text for load in loads for text in (f'{load} busy, s', 'times idle')]
    return table(head, [[name, *(number for load in loads for number in
                                 (seconds[load], result['ratio_to_idle'][name][load]))]
                        for name, seconds in result['median'].items()])


def low_precision(result: dict[str, Any]) -> str:
    """Percent of the weights that moved, and of the change that arrived, by rate and variant."""
    rates = result['weights']
    steps = list(next(iter(next(iter(rates.values())).values())))
    head = ['% moved (% arrived)', *(f'lr {rate}, {step}' for rate in rates for step in steps)]

    def cell(about: dict[str, Any]) -> str:
        if not about['finite']:
            return 'not finite'
        arrived = '' if about['arrived'] is None else f' ({100 * about["arrived"]:.3g})'
        return f'{100 * about["moved"]:.3g}{arrived}'

    return table(head, [[way, *(cell(rates[rate][way][step]) for rate in rates for step in steps)]
                        for way in next(iter(rates.values()))])


def start_up(result: dict[str, Any]) -> str:
    """Seconds of each case in this checkout and in the earlier one."""
    return table(['', 'mmdpad, s', 'before, s', 'times as long', 'in single turns'],
                 [[case, about['median']['mmdpad'], about['median']['before'],
                   about['ratio']['before'],
                   ' - '.join(f'{ratio:.2f}' for ratio in about['ratio_range']['before'])]
                  for case, about in result['cases'].items()])


def staleness(result: dict[str, Any]) -> str:
    """Seconds per iteration by how old rollouts may be, and relative to the first."""
    setting = result['setting']
    return table(['max_staleness', 'seconds of a rollout', 'of an update', 'of an iteration',
                  'times the first'],
                 [[k, setting['rollout'], setting['update'], seconds,
                   result['ratio_to_least_staleness'][k]]
                  for k, seconds in result['median'].items()])


def loading(result: dict[str, Any]) -> str:
    """Peak memory of processes that load a policy, in models of float32, and seconds."""
    return table(['loaded', 'way', 'peak, in models', 'pages of files', 'seconds'],
                 [[case if case == 'policy' else f'policy and {case}', way,
                   about['ratio']['anonymous'], about['ratio']['mapped_files'], about['seconds']]
                  for case, ways in result['cases'].items() for way, about in ways.items()])


def operations(result: dict[str, Any]) -> str:
    """Operations of a decoding step by kind of layers, and relative to the build before."""
    rows = [[f'{device}, {adapter}', *(result[kind][adapter][device][count]
                                       for kind in ('before', 'model', 'fused')),
             result['ratio'][adapter][device][count], count]
            for count in ('operations', 'launches') for adapter in ('plain', 'lora')
            for device in ('gpu', 'cpu')]
    return table(['', 'before', "the model's layers", 'fused', 'fused / before', 'counted'], rows)


def speculation(result: dict[str, Any]) -> str:
    """Passes, tokens in them and processor time of rollouts with and without guesses."""
    rows: Rows = []
    for what, about in (('training', result['train']), ('greedy', result['evaluate'])):
        seconds = about['cpu_seconds']
        rows += [[f'{what}, {side}', about['passes'].get(side, ''), about['tokens'].get(side, ''),
                  seconds['median'][side], *times(seconds, side)[1:],
                  'yes' if about['same_tokens'][side] else 'no'] for side in seconds['median']]
    return table(['', 'passes', 'tokens in them', 'CPU seconds', 'times as long',
                  'in single turns', 'same tokens'], rows)


def batching(result: dict[str, Any]) -> str:
    """Passes and tokens of simulated answers, batch after batch and with replacement."""
    names = ('passes', 'tokens_fed', 'prompt_passes')
    return table(['', 'passes', 'tokens in them', 'passes of prompts'],
                 [*([way.replace('_', ' '), *(result[way][name] for name in names)]
                    for way in ('batch_after_batch', 'continuous')),
                  ['ratio', *(result['ratio'].get(name, '') for name in names)],
                  ['fewest possible', result['fewest_passes'], '', '']])


def shares(result: dict[str, Any]) -> str:
    """Parts of the time of a run."""
    return table(['', 'share of the time', 'in single turns'],
                 [[name, share, ' - '.join(f'{end:.2f}' for end in result['share_range'][name])]
                  for name, share in result['share'].items()])


def provenance(result: dict[str, Any]) -> str:
    """Command, date and versions of one result."""
    about = result['environment']
    versions = ', '.join(f'{name} {about[name]}' for name in
                         ('python', 'torch', 'transformers', 'trl', 'open_clip') if about.get(name))
    return (f'`{about["command"]}`, {about["date"][:10]}; {versions}; {about["cpu"]}, '
            f'{about["threads"]} of {about["cpu_count"]} cores.')


def report(folder: Path) -> str:
    """All results of a folder, each with the title in its file name."""
    parts = []
    for path in sorted(folder.glob('*.json'), key=lambda path: (
            int(path.stem.partition('_')[0]), path.stem)):
        result = json.loads(path.read_text())
        body = (scaling if 'rows' in result else busy if 'ratio_to_idle' in result
                else low_precision if 'weights' in result
                else staleness if 'ratio_to_least_staleness' in result
                else loading if 'bytes' in result else operations if 'fused' in result
                else start_up if 'cases' in result else speculation if 'evaluate' in result
                else batching if 'continuous' in result
                else shares if 'share' in result else comparison)(result)
        parts.append(f'### {path.stem.partition("_")[2].replace("_", " ")}\n\n{body}\n\n'
                     f'{provenance(result)}')
    return wrap_markdown('\n\n'.join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='JSON files, named NUMBER_TITLE.json')
    parser.add_argument('--write', type=Path, metavar='PAGE',
                        help=f'insert them between {START} and {END} of this page')
    args = parser.parse_args()
    tables = report(args.folder)
    if args.write is None:
        print(tables)
        return
    page = args.write.read_text()
    args.write.write_text(re.sub(f'{START}.*{END}', lambda _: f'{START}\n{tables}\n{END}', page,
                                 flags=re.S))


if __name__ == '__main__':
    main()
