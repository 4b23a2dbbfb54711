# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A rollout engine that writes given texts."""
from mmdpad.models.rollouts.engine import DrawingEngine
from mmdpad.models.rollouts.sampling import cut_responses


class Scripted(DrawingEngine):
    """Writes given texts, turn by turn, and remembers what it was asked."""

    def __init__(self, *turns):
        self.turns, self.calls = list(turns), []

    def __call__(self, head, prompts, group_size=1, **sampling):
        texts = self.turns[len(self.calls)]
        self.calls.append(dict(sampling, prompts=list(prompts), group_size=group_size))
        assert len(texts) == len(prompts) * group_size
        ids, mask = head.encode_responses(texts)
        if sampling['max_new_tokens'] < ids.shape[1]:
            ids = ids[:, :sampling['max_new_tokens']]
        return cut_responses(ids.masked_fill(~mask[:, :ids.shape[1]], head.pad_token),
                             head.end_tokens, head.pad_token)

    def generate(self, *args):
        raise AssertionError
