# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks whether a config's discriminator can separate true captions from generic and wrong ones.

    python tools/analysis_tools/check_discriminator.py configs/dpad/tiny_shapes.py

Builds the discriminator and the data set, but no policy and no decoder. True captions come from
--captions (JSON lines with `id`, or `image` and `question`, and `caption`); without it, from the
data set's captions, or else its questions. docs/method.md explains the numbers.
"""

from __future__ import annotations

import json
import sys

from mmdpad.utils import (
    LOADERS,
    check_file,
    config_parser,
    jsonable,
    load_config,
    start_command,
    write_atomically,
)

SOURCES = {
    'file': 'from {}',
    'data set': 'from the data set itself',
    'question': 'the QUESTIONS of the data set, as it has no captions: referring expressions are '
                'captions; reasoning questions are not, and say little about the model',
}


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or not int(text):
        raise ValueError
    return int(text)


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0],
                           'custom_hooks.DiscriminativeRewardHook.region_margin=0.25')
    parser.add_argument('--loader', choices=LOADERS, default='train_dataloader',
                        help='which data set to use (default: train_dataloader)')
    parser.add_argument('--term', metavar='NAME', help='name of the discriminative term, if the '
                        'config has several')
    parser.add_argument('--limit', type=positive, default=200, metavar='N',
                        help='number of items, spread evenly (default: 200)')
    parser.add_argument('--captions', metavar='IN.jsonl', help='true captions, see above')
    parser.add_argument('--out', metavar='OUT.json', help='write all numbers; a taken name gets a '
                        'number')
    args = parser.parse_args()
    check_file('captions', args.captions)
    with start_command():
        config = load_config(args)

        from mmengine.registry import init_default_scope
        from mmengine.utils import track_iter_progress

        from mmdpad.analysis.caption_scores import (
            find_captions,
            find_reward,
            score_captions,
            spread,
        )
        from mmdpad.analysis.discriminator_check import check_scores, format_check
        from mmdpad.registry import DATASETS, scope_of
        from mmdpad.rewards import DiscriminativeReward
    init_default_scope(scope_of(config, 'mmdpad'))
    loader = config.get(args.loader)
    if not loader:
        raise SystemExit(f'{args.config} has no `{args.loader}`; name another one with --loader')
    try:
        settings = find_reward(config, args.term)
        dataset = DATASETS.build(loader['dataset'])
        found, source = find_captions(dataset, args.captions)
        reward = DiscriminativeReward(**settings)
        reward.prepare()
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(str(error)) from error
    items = spread(found, args.limit)
    print(f'{len(items)} of {len(found)} items that have a caption (of {len(dataset)}); true '
          f'captions are {SOURCES[source].format(args.captions)}')
    try:
        scores, without = score_captions(
            reward, dataset, items, progress=track_iter_progress if sys.stdout.isatty() else iter)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    report = dict(check_scores(scores, source, reward.options.contrast), source=source,
                  loader=args.loader, without_target=without,
                  discriminator=settings['discriminator'], options=reward.options)
    print('\n' + format_check(report), end='')
    if without:
        print(f'{without} items without a target were left out')
    if args.out:
        print(write_atomically(args.out, json.dumps(jsonable(report), indent=2).encode()))


if __name__ == '__main__':
    main()
