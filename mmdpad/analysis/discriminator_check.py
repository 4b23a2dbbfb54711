# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Can a discriminator separate true captions from generic and wrong ones? Scores and verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = dict(
    true='true', generic='generic', wrong='of another image',
    misplaced='true, of another object')
"""Kind of caption -> its title. ``generic`` captions are true for any object, ``wrong`` ones are
true captions of objects in other images, and ``misplaced`` is the true caption scored at the
position of another object in the same image."""

STRONG, WEAK = 0.8, 0.65
VERDICTS = dict(carries='carries the reward', weak='carries the reward only weakly',
                fails='does not carry the reward')
RULE = (f'It carries the reward if true captions win for at least half of the items and more often '
        f'than generic and wrong ones, and both AUCs are {STRONG} or more; it does not if an AUC '
        f'is below {WEAK}; else weakly.')
_Z = 1.959963984540054  # for a two-sided 95 % interval


@dataclass(frozen=True)
class CaptionScores:
    """A discriminator's scores for the captions of N items.

    Attributes:
        margins: Kind -> S1 - S2 of its K captions, float (N, K); NaN if an item has fewer, or if
            one cannot be used. 'true' has K = 1.
        rewards: 'true' and 'generic' -> the rewards of the same captions, float (N, K).
        ranks: (N,) rank of the item's object among all annotated objects under the true caption;
            NaN if there are no others or the caption cannot be used.
        others: (N,) number of other annotated objects.
        areas: (N,) area of the target's box as a share of the image.
    """

    margins: dict[str, np.ndarray]
    rewards: dict[str, np.ndarray]
    ranks: np.ndarray
    others: np.ndarray
    areas: np.ndarray

    def select(self, items: np.ndarray) -> CaptionScores:
        """The scores of some items, selected by a bool (N,)."""
        return CaptionScores({kind: values[items] for kind, values in self.margins.items()},
                             {kind: values[items] for kind, values in self.rewards.items()},
                             self.ranks[items], self.others[items], self.areas[items])


def check_scores(scores: CaptionScores, source: str = 'captions',
                 contrast: str = 'image') -> dict[str, Any]:
    """All numbers, the verdict and hints.

    Args:
        scores: Scores of at least one item.
        source: Where the true captions come from; 'question' needs a hint.
        contrast: The discriminative term's option that the scores were computed with.

    Returns:
        ``all``, and ``small`` and ``large``, the items with boxes up to the median area and those
        above it: results of :func:`measure`; ``median_area``; ``verdict``, a key of
        :data:`VERDICTS`; ``sentence``; ``rule``; ``hints``, a list of sentences.

    Raises:
        ValueError: There is no item.
    """
    if not len(scores.areas):
        raise ValueError('`scores` should be of at least one item, but there are none')
    median = float(np.median(scores.areas))
    report: dict[str, Any] = dict(
        all=measure(scores), small=measure(scores.select(scores.areas <= median)),
        large=measure(scores.select(scores.areas > median)), median_area=median)
    verdict, sentence = judge(report['all'])
    return dict(report, verdict=verdict, sentence=sentence, rule=RULE,
                hints=find_hints(report, verdict, source, contrast))


def measure(scores: CaptionScores) -> dict[str, Any]:
    """Shares and margins over some items.

    Every share has ``value``, ``low`` and ``high``, a 95 % interval over items (:func:`wilson`),
    and ``n``, the items that have such captions; values are NaN if n is 0.

    Returns:
        - ``n``: items;
        - ``wins``: kind -> share of usable captions with S1 > S2;
        - ``margin``: kind -> ``mean`` and ``std`` (divided by n - 1) of S1 - S2, and ``n``, over
          usable captions;
        - ``auc``: kind -> probability that an item's true caption has a larger margin than its
          captions of this kind, with ties counted half. Pairs are within one item, because GRPO
          only compares captions of the same prompt;
        - ``unusable``: share of true captions that are empty, too long, or have no region;
        - ``differs``, ``better``: share of pairs of a true and a generic caption whose rewards
          differ, and share in which the true one has the higher reward; an unusable caption has
          reward 0;
        - ``rank``: over items with other objects: ``first``, the share whose own object fits the
          true caption best; ``mean`` rank, and ``n``; ``chance``, the expected ``first`` by chance.
    """
    margins = scores.margins
    rewards, generic = scores.rewards['true'], scores.rewards['generic']
    true = margins['true']
    ranked = np.isfinite(scores.ranks)
    return dict(
        n=len(true),
        wins={kind: _share(_rows(values > 0, values)) for kind, values in margins.items()},
        margin={kind: _spread(values[np.isfinite(values)]) for kind, values in margins.items()},
        auc={kind: _share(_rows((true > values) + 0.5 * (true == values), values + true))
             for kind, values in margins.items() if kind != 'true'},
        unusable=_share(np.isnan(true).mean(axis=1)),
        differs=_share((rewards != generic).mean(axis=1)),
        better=_share((rewards > generic).mean(axis=1)),
        rank=dict(first=_share((scores.ranks == 1)[ranked].astype(float)),
                  mean=_mean(scores.ranks[ranked]),
                  chance=_mean(1 / (1 + scores.others[ranked])), n=int(ranked.sum())))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a share of n items; NaN if n is 0.

    If an item's value is a mean over captions, in [0, 1], the interval is at least as wide as
    necessary: no distribution on [0, 1] varies more than one on 0 and 1.
    """
    if not n:
        return math.nan, math.nan
    middle = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def judge(numbers: dict[str, Any]) -> tuple[str, str]:
    """The verdict by :data:`RULE`, a key of :data:`VERDICTS`, and a sentence that states it.

    Args:
        numbers: The result of :func:`measure`.
    """
    wins = numbers['wins']
    aucs = {kind: auc for kind, auc in numbers['auc'].items()
            if kind in ('generic', 'wrong') and auc['n']}
    if not aucs:
        return 'fails', (f'This discriminator {VERDICTS["fails"]}: none of {numbers["n"]} true '
                         f'captions can be compared with another one.')
    kind, auc = min(aucs.items(), key=lambda item: item[1]['value'])
    if auc['value'] < WEAK:
        verdict = 'fails'
    else:
        verdict = 'carries' if auc['value'] >= STRONG and _true_wins(wins) else 'weak'
    shares = ', '.join(f'{KINDS[kind]} {_percent(wins[kind]["value"])}' for kind in aucs)
    return verdict, (f'This discriminator {VERDICTS[verdict]}: true captions win for '
                     f'{_percent(wins["true"]["value"])} of {wins["true"]["n"]} items ({shares}), '
                     f'and the lower AUC ({KINDS[kind]}) is {_interval(auc)}.')


def find_hints(report: dict[str, Any], verdict: str, source: str, contrast: str) -> list[str]:
    """What to try, judging by the numbers. ``report`` has the results of :func:`measure` for all
    items and for small and large boxes; the other arguments are as in :func:`check_scores`."""
    numbers, found = report['all'], []
    if source == 'question':
        found.append('pass captions of the objects with --captions, unless the questions already '
                     'are: otherwise the numbers say little about the model')
    if numbers['unusable']['value'] > 0.05:
        found.append('shorten the captions, or use a model with a longer context '
                     '(`context_length`)')
    small, large = (report[size]['auc'] for size in ('small', 'large'))
    if any(small[kind]['value'] < large[kind]['value'] - 0.1 for kind in ('generic', 'wrong')):
        found.append('captions of small boxes are separated worse: try `region_margin=0.25`')
    misplaced = numbers['auc']['misplaced']['value']
    if verdict != 'fails' and contrast != 'others' and misplaced < STRONG:
        found.append('other objects in an image also fit its captions: try `contrast=\'others\'`')
    if verdict == 'weak' and not _true_wins(numbers['wins']):
        form = 'margin' if numbers['margin']['true']['mean'] > 0 else 'sigmoid'
        found.append(f'S1 > S2 alone says less here than the size of S1 - S2: try '
                     f'`form=\'{form}\'`')
    if verdict != 'carries':
        found.append('try another model as `discriminator`')
    return found


def format_check(report: dict[str, Any]) -> str:
    """The result of :func:`check_scores` as a table and sentences."""
    numbers = report['all']
    lines = [f'{"caption":24}{"n":>5}  {"S1 > S2":21}{"S1 - S2":18}AUC of true ones']
    lines += [_line(numbers, kind, KINDS[kind]) for kind in KINDS]
    lines.append(f'\nboxes of at most {_percent(report["median_area"])} of the image (the median), '
                 f'and larger ones')
    lines += [_line(report[size], kind, f'{size}, {KINDS[kind]}')
              for size in ('small', 'large') for kind in ('true', 'generic', 'wrong')]
    rank = numbers['rank']
    lines += ['', f'unusable true captions                    {_interval(numbers["unusable"])}',
              f'reward differs from that of generic ones  {_interval(numbers["differs"])}',
              f'  and is higher                           {_interval(numbers["better"])}']
    if rank['n']:
        lines.append(f'own object ranks first among all          {_interval(rank["first"])} '
                     f'(chance {rank["chance"]:.3f}); mean rank {rank["mean"]:.2f}, {rank["n"]} '
                     f'items')
    lines += ['', report['sentence'], report['rule'],
              *(f'- {hint}' for hint in report['hints'])]
    return '\n'.join(lines) + '\n'


def _line(numbers: dict[str, Any], kind: str, title: str) -> str:
    wins, margin = numbers['wins'][kind], numbers['margin'][kind]
    auc = numbers['auc'].get(kind)
    spread = f'{margin["mean"]:+.3f} +- {margin["std"]:.3f}'
    line = f'{title:24}{wins["n"]:5}  {_interval(wins):21}{spread:18}'
    return (line + (_interval(auc) if auc else '')).rstrip()


def _true_wins(wins: dict[str, dict]) -> bool:
    true = wins['true']['value']
    return true >= 0.5 and all(not true <= wins[kind]['value'] for kind in ('generic', 'wrong'))


def _rows(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Means of the rows of (N, K) over the entries where ``known`` is not NaN; rows without such
    entries are skipped."""
    known = ~np.isnan(known)
    some = known.any(axis=1)
    return np.where(known, values, 0).sum(axis=1)[some] / known.sum(axis=1)[some]


def _share(values: np.ndarray) -> dict[str, float]:
    """Mean of (n,) values in [0, 1], as a share with its interval."""
    value = _mean(values)
    low, high = wilson(value, len(values))
    return dict(value=value, low=low, high=high, n=len(values))


def _spread(values: np.ndarray) -> dict[str, float]:
    return dict(mean=_mean(values), n=len(values),
                std=float(values.std(ddof=1)) if len(values) > 1 else math.nan)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'


def _interval(share: dict[str, float]) -> str:
    return f'{share["value"]:.3f} [{share["low"]:.3f}, {share["high"]:.3f}]'
