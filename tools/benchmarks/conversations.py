# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times conversations of two turns, and how much of it the second turn spends on what came before.

    python tools/benchmarks/conversations.py

A random Qwen2.5-VL in the proportions of the 7B model (fp32, fixed vision tower) writes two turns
of a fixed length, with a crop between them. In either turn, `SharedPrefixRollout` computes the
prompt of the first turn once for the group; in the second one, it computes the first response again
for each sample, and the reply. Prints JSON: tokens per second, and shares of all of the time:
`prefill` of the second turn; `shared`, what it would take in addition if each sample computed the
first prompt again; and `saved`, what would be left out if the first turn's cache were kept, and
only the reply computed. Shares come from runs that took turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from statistics import median


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--prompts', type=int, default=1)
    parser.add_argument('--group-size', type=int, default=8)
    parser.add_argument('--tokens', type=int, default=150, help='in each turn')
    parser.add_argument('--side', type=int, default=840, help='of the model image, in pixels')
    parser.add_argument('--crop', type=int, default=560, help='side of the crop, in pixels')
    parser.add_argument('--hidden-size', type=int, default=384)
    parser.add_argument('--layers', type=int, default=6)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    EndlessHead,
    alternate,
    environment,
    make_image,
    make_policy,
    print_json,
    unseen,
)

from mmdpad.models import SharedPrefixRollout
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.replies import ReplyEncoder
from mmdpad.prompts.zoom import reply_text


def main() -> None:
    args = parse_args()
    os.environ['HF_HUB_OFFLINE'] = '1'
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_policy(folder, args.hidden_size, args.layers, args.side)
        head = EndlessHead(folder, PROMPT_TEMPLATE, freeze_vision=True).eval()
    engine, group = SharedPrefixRollout(), args.group_size
    prompts = head.encode_prompts([make_image(args.side, n) for n in range(args.prompts)],
                                  [QUESTION] * args.prompts)
    count = args.prompts * group
    encode = ReplyEncoder(head.encoder)
    replies = [encode(reply_text((args.crop, args.crop), 0), make_image(args.crop, n))
               for n in range(count)]

    @torch.no_grad()
    def first(seed: int = 0) -> list[EncodedPrompt]:
        """The prompts of the second turns."""
        asked = unseen(prompts)
        ids = engine(head, asked, group_size=group, max_new_tokens=args.tokens, seed=seed).ids
        seen = head.encode_images(unseen(replies))
        return [asked[n // group].followed_by(own, seen[n]) for n, own in enumerate(ids)]

    def converse() -> None:
        engine(head, first(), max_new_tokens=args.tokens, seed=1)

    started, alone = first(), head.encode_images(replies)
    apart = [replace(prompt, first=replace(prompt.first)) for prompt in started]
    seconds = alternate({
        'conversations': converse,
        'prefill of the second turn': lambda: engine(head, started, max_new_tokens=1),
        'prefill of each conversation': lambda: engine(head, apart, max_new_tokens=1),
        'prefill of the reply alone': lambda: engine(head, alone, max_new_tokens=1)}, args.repeats)
    whole, again, each, reply = seconds.values()
    shares = {'prefill': [b / a for a, b in zip(whole, again, strict=True)],
              'shared': [(c - b) / a for a, b, c in zip(whole, again, each, strict=True)],
              'saved': [(b - c) / a for a, b, c in zip(whole, again, reply, strict=True)]}
    print_json(dict(
        environment=environment(), setting=vars(args), load_average=os.getloadavg(),
        tokens=dict(prompt=len(prompts[0]), turn=args.tokens, reply=len(replies[0]),
                    second_prompt=len(started[0])),
        seconds=seconds, tokens_per_second=2 * args.tokens * count / median(whole),
        share={name: median(values) for name, values in shares.items()},
        share_range={name: [min(values), max(values)] for name, values in shares.items()}))


if __name__ == '__main__':
    main()
