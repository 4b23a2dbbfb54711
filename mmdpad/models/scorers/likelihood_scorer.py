# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores the objects of an answer by how likely the policy was to write them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmdpad.models.heads.token_places import check_places
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.prompts import Place
from mmdpad.registry import MODELS
from mmdpad.structures import fill
from mmdpad.utils.log_odds import TINY

from .box_scorer import BoxScorer, GivenAnswer, ScoredObjects

MAX_TOKENS = 16384
"""Tokens of prompts and responses in one forward pass; a longer answer has a pass of its own."""
PARTS = ('label', 'box', 'object')
_REDUCTIONS: dict[str, Callable[[np.ndarray], float]] = dict(mean=np.mean, sum=np.sum, min=np.min)


@MODELS.register_module()
class LikelihoodScorer(BoxScorer):
    """The probability of an object's tokens under the current policy, given the image, the question
    and all that precedes them in the response; in (0, 1].

    The log-probabilities are those of the policy at temperature 1, whatever the temperature of the
    sampling was, and come from one forward pass over the prompts and the tokens of the responses.
    It needs no log-probabilities of a rollout engine. A stored response (``mmdpad test --resume``)
    is tokenized again, and so may get slightly other values than when it was sampled.

    Tokens belong to the JSON value of a label (with its quotes), to that of a box (with its
    brackets), or to the entry of the whole object: all that have a character of it, also if they
    go beyond it. Features: ``logp_label``, ``logp_box`` and ``logp_object``, in nats.

    Args:
        of: What gives the score: 'label', 'box' or 'object'.
        reduce: 'mean' (the score is the geometric mean of the tokens' probabilities), 'sum' (their
            product, which is lower for longer values) or 'min' (the least probable token).
        calibration: See :class:`BoxScorer`.

    Raises:
        ValueError: An argument is not one of these, or see :meth:`.Calibration.read`.
    """

    name = 'likelihood'
    feature_names = tuple(f'logp_{part}' for part in PARTS)
    needs_policy = True

    def __init__(self, of: str = 'label', reduce: str = 'mean',
                 calibration: str | None = None) -> None:
        for name, value, known in (('of', of, PARTS), ('reduce', reduce, tuple(_REDUCTIONS))):
            if value not in known:
                raise ValueError(f'`{name}` should be one of {known}, but got {value!r}')
        super().__init__(calibration)
        self.of, self.reduce = of, reduce
        self.check_calibration()

    def options(self) -> dict[str, Any]:
        return dict(type='LikelihoodScorer', of=self.of, reduce=self.reduce)

    def prepare(self, policy: Any) -> None:
        """Check the policy's tokenizer, see :func:`.token_places.check_places`."""
        check_places(policy.processor.tokenizer, policy.source)

    def score(self, answers: Sequence[GivenAnswer], policy: Any) -> list[ScoredObjects]:
        """See :class:`BoxScorer`.

        Raises:
            NonFiniteError: Log-probabilities are NaN or infinite; ``prompt`` is the answer's
                number.
        """
        codec = policy.encoder.responses
        rows = [tokens_of(policy, answer.response, answer.response_ids) for answer in answers]
        logp = log_probs_of(policy, [answer.prompt for answer in answers], rows)
        return [self._score(answer, own, *codec.locate(row.tolist()))
                for answer, own, row in zip(answers, logp, rows, strict=True)]

    def _score(self, answer: GivenAnswer, logp: np.ndarray, text: str,
               places: Sequence[Place | None]) -> ScoredObjects:
        """Score the objects of one answer, by the log-probabilities (R,) of its tokens and their
        places in its text."""
        assert answer.locate is not None
        values = np.full((len(PARTS), len(answer.objects)), np.nan)
        entries = answer.locate(text)
        # A stored text that spells special tokens loses them, and with them maybe an entry.
        if len(entries) == len(answer.objects):
            tokens = [(number, *place) for number, place in enumerate(places) if place is not None]
            kept, starts, ends = ([token[i] for token in tokens] for i in range(3))
            for number, entry in enumerate(entries):
                for part, name in enumerate(PARTS):
                    if name in entry:
                        begin, end = entry[name]
                        own = logp[kept[bisect_right(ends, begin):bisect_left(starts, end)]]
                        values[part, number] = _REDUCTIONS[self.reduce](own)
        score = np.exp(values[PARTS.index(self.of)])
        return ScoredObjects(np.fmax(score, TINY), dict(
            zip(self.feature_names, values, strict=True), score=score))


def tokens_of(policy: Any, response: str, response_ids: Tensor | None) -> Tensor:
    """The tokens (r,) of a response, as sampled, or of a stored text, which is tokenized again."""
    return response_ids.cpu() if response_ids is not None else torch.tensor(
        policy.encoder.responses.encode_again(response, policy.vision_token_ids),
        dtype=torch.long)


def log_probs_of(policy: Any, prompts: Sequence[Any], rows: Sequence[Tensor]) -> list[np.ndarray]:
    """The log-probabilities float64 (r,) at temperature 1 of the tokens of N responses.

    Args:
        policy: The policy.
        prompts: The prompt of each response; or a single one, to which all are.
        rows: N tensors (r,) long.

    Raises:
        NonFiniteError: Some are NaN or infinite; ``prompt`` is the response's number.
    """
    own = [*prompts] * (len(rows) if len(prompts) == 1 else 1)
    found: list[np.ndarray] = []
    for part in fill([len(prompt) + len(row) for prompt, row in zip(own, rows, strict=True)],
                     MAX_TOKENS):
        some = slice(part.start, part.stop)
        found += _log_probs(policy, prompts if len(prompts) == 1 else prompts[some], rows[some])
    for number, logp in enumerate(found):
        if not np.isfinite(logp).all():
            raise NonFiniteError(
                f'The log-probabilities of the response to prompt {number} of the batch are not '
                f'finite. {policy.explain_non_finite([own[number]], rows[number][None])}', number)
    return found


def _log_probs(policy: Any, prompts: Sequence[Any], rows: Sequence[Tensor]) -> list[np.ndarray]:
    """The log-probabilities float64 (R,) of the tokens of each response to a prompt."""
    mask = pad_sequence([torch.ones_like(row).bool() for row in rows], batch_first=True)
    ids = pad_sequence(list(rows), batch_first=True, padding_value=policy.pad_token)
    logp, _ = policy.log_probs(prompts, ids, mask, temperature=1.0)
    return [own[:len(row)] for own, row in zip(logp.double().cpu().numpy(), rows, strict=True)]
