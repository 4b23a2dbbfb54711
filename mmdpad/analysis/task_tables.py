# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tables, reliability curves and pictures of a study of detection and question answering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from PIL import Image

from mmdpad.datasets.transforms import read_image
from mmdpad.utils import read_jsonl
from mmdpad.utils.markdown import markdown_table
from mmdpad.visualization import draw_answer, draw_grid, draw_row

from .task_scores import ScoredRun, measure_scores
from .task_study import (
    Answers,
    Draws,
    Estimate,
    Measured,
    Row,
    TestScenes,
    differences,
    estimates,
    measure_seeds,
    read_answers,
)

ARMS = dict(start='start', rules='rules', discriminative='+ term')
"""Arms and their titles: the start policy, and trained without and with the discriminative term."""
MODES = dict(sampled='temperature 1', greedy='greedy')
CALIBRATED = 'greedy'
"""The mode in which the boxes of the validation scenes are known."""
DIFFERENCES = (('rules', 'start'), ('discriminative', 'start'), ('discriminative', 'rules'))
TITLES = dict(
    ovd=dict(f1='F1', macro_f1='F1, mean over shapes', precision='precision', recall='recall',
             mean_iou='IoU of matches', count_error='count error, objects',
             discriminative='discriminative reward', specific='descriptions: specific',
             generic='descriptions: generic', other='descriptions: of another object'),
    vqa=dict(accuracy='accuracy', evidence_iou='evidence IoU', evidence_accuracy='evidence right',
             accuracy_given_right_evidence='accuracy, evidence right',
             accuracy_given_wrong_evidence='accuracy, evidence wrong',
             grounded_accuracy='both right', no_evidence_rate='no evidence, share',
             discriminative='discriminative reward', specific='captions: specific',
             generic='captions: generic', other='captions: of another object',
             reasoning_tokens='reasoning, tokens'))
"""Task -> measure -> its title, in the order of the table; in percent unless it says otherwise."""
SCORE_TITLES = dict(none='every score 1', likelihood='likelihood', discrimination='discrimination',
                    combined='both', fitted='both, weights fitted')
FINE = ('ECE', 'Brier', 'count error', 'no evidence')
"""Starts of the titles of numbers with three digits."""


_WIDEST = 1100  # pixels of a picture of answers


@dataclass
class TaskResults:
    """What the runs of a task answered.

    Attributes:
        answers: mode -> arm -> the answers of each seed.
        scored: arm -> the boxes of each seed in the mode :data:`CALIBRATED`, with their scores;
            only for detection.
    """

    answers: dict[str, dict[str, list[Answers]]] = field(default_factory=dict)
    scored: dict[str, list[ScoredRun]] = field(default_factory=dict)


def read_task(folder: Path, task: str, file: COCO | None = None) -> TaskResults:
    """Read all complete runs of a task.

    Args:
        folder: The study's folder.
        task: 'ovd' or 'vqa'.
        file: For 'ovd', the ground truth of the test scenes.
    """
    found, scenes, draws = TaskResults(), TestScenes(), None
    for mode in MODES:
        found.answers[mode] = {}
        for arm in ARMS:
            runs = [run for run in sorted(folder.glob(f'{task}_{arm}/seed_*'))
                    if (run / f'{mode}.test.json').exists()]
            answers = [read_answers(run / f'{mode}.test.samples.jsonl',
                                    run / f'{mode}.test.rewards.jsonl', scenes) for run in runs]
            found.answers[mode][arm] = answers
            if file is not None and answers and mode == CALIBRATED:
                draws = draws or Draws(answers[0].scenes)
                found.scored[arm] = [
                    ScoredRun(some.rows, list(read_jsonl(str(run / f'{mode}.val.samples.jsonl'))),
                              file, draws) for run, some in zip(runs, answers, strict=True)]
    return found


def format_task(results: TaskResults, task: str) -> str:
    """The tables of a task as Markdown."""
    parts = []
    for mode, title in MODES.items():
        arms = {arm: runs for arm, runs in results.answers[mode].items() if runs}
        draws = Draws(next(iter(arms.values()))[0].scenes)
        parts += [f'**{title.capitalize()}:**', format_table(
            {arm: measure_seeds(runs, draws) for arm, runs in arms.items()}, TITLES[task])]
    if results.scored:
        measured = {arm: measure_scores(runs) for arm, runs in results.scored.items()}
        titles = {f'{score}{suffix} {measure}': f'{measure}: {title}{suffix}'
                  for measure in ('AP', 'AP50', 'ECE', 'Brier')
                  for score, title in SCORE_TITLES.items() for suffix in ('', ', calibrated')}
        known = next(iter(measured.values()))
        parts += [f'**Scores of boxes, {MODES[CALIBRATED]}:**', format_table(
            measured, {name: title for name, title in titles.items() if name in known})]
    return '\n\n'.join(parts) + '\n'


def format_table(arms: Mapping[str, Measured], titles: Mapping[str, str]) -> str:
    """One line for each measure: the arms, then their :data:`DIFFERENCES`."""
    numbers = {arm: estimates(measured) for arm, measured in arms.items()}
    pairs = {(arm, reference): differences(arms[arm], arms[reference])
             for arm, reference in DIFFERENCES if {arm, reference} <= arms.keys()}
    head = ['', *(ARMS[arm] for arm in numbers),
            *(f'{ARMS[arm]} - {ARMS[reference]}' for arm, reference in pairs)]
    lines = []
    for name, title in titles.items():
        digits = 3 if title.startswith(FINE) else 1
        lines.append([title, *(show(some[name], digits) for some in numbers.values()),
                      *(show_difference(some[name], digits) for some in pairs.values())])
    return markdown_table(head, lines)


def show(number: Estimate, digits: int) -> str:
    """The mean and, of several seeds, their range."""
    text = f'{number.mean:.{digits}f}'
    if len(number.seeds) == 1 or text == 'nan':
        return text
    return f'{text} ({min(number.seeds):.{digits}f} to {max(number.seeds):.{digits}f})'


def show_difference(number: Estimate, digits: int) -> str:
    """The mean, its interval over scenes, and the range of the seeds."""
    ends = [f'{end:+.{digits}f}' for end in (
        number.mean, number.low, number.high, min(number.seeds), max(number.seeds))]
    return '{} [{}, {}] ({} to {})'.format(*ends)


def draw_before_and_after(before: Sequence[Row], after: Sequence[Row], gain: str, path: Path,
                          count: int = 4) -> None:
    """Draw answers of two policies side by side, none picked by hand: questions go from the largest
    gain to the largest loss, are cut into ``count`` equal parts, and the middle one of each is
    drawn.

    Args:
        before, after: Rows about the same questions in the same order.
        gain: Column that is compared; for detection 'right', the number of right boxes.
        path: Where the JPEG goes.
        count: Number of questions.
    """
    pairs = list(zip(before, after, strict=True))
    order = sorted(range(len(pairs)), key=lambda i: float(pairs[i][0][gain] - pairs[i][1][gain]))
    pictures = []
    for part in range(count):
        pair = pairs[order[(2 * part + 1) * len(order) // (2 * count)]]
        for stage, row in zip(('start', 'end'), pair, strict=True):
            pictures.append(_draw(row, stage))
    picture = Image.fromarray(draw_grid(pictures, columns=2))
    picture.thumbnail((_WIDEST, picture.height))
    picture.save(path, quality=80)


def _draw(row: Row, stage: str) -> np.ndarray:
    image = read_image(row['image'])
    if 'answers' in row:
        return draw_row(image, row)
    answer = '; '.join(f'{description}' for description in row['descriptions'])
    return draw_answer(image, boxes=row['boxes'], question=row['question'], think=row['think'],
                       answer=answer or 'nothing',
                       note=f'{stage} of training: {row["right"]} of {row["targets"]} objects '
                       f'found, {row["wrong"]} wrong')
