# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A rollout engine for a policy that writes no calls; also for processes that torchrun starts."""
from torch.nn.utils.rnn import pad_sequence

from mmdpad.models import SharedPrefixRollout
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.registry import ROLLOUTS


@ROLLOUTS.register_module()
class CallingRollout(SharedPrefixRollout):
    """Replaces about half of the responses by calls, some of which cannot be used. Which ones, and
    by which, depends on the tokens that the policy chose."""

    def __call__(self, head, *args, **options):
        found = super().__call__(head, *args, **options)
        rows, cut_off = [], found.truncated.clone()
        for n, (ids, mask) in enumerate(zip(found.ids, found.mask, strict=True)):
            own, number = ids[mask], int(ids[mask].sum())
            if number % 2:
                x, y = number % 60, number // 60 % 60
                text = f'<zoom>[{x}, {y}, {x + number % 7 * 10}, {y + 40}]</zoom>'
                own, cut_off[n] = head.encode_responses([text])[0][0].to(ids.device), False
            rows.append(own)
        mask = pad_sequence([own.new_ones(len(own)).bool() for own in rows], True)
        return Responses(pad_sequence(rows, True, head.pad_token), mask, cut_off)
