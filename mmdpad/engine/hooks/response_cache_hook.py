# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Caches the responses of a test, so that an interrupted test can be resumed."""

from __future__ import annotations

import hashlib
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdpad.engine.strategies.sharding import to_full
from mmdpad.engine.unwrap import unwrap
from mmdpad.evaluation.provenance import published
from mmdpad.models.segmentors import ConceptAgent, ReasoningSegmentor
from mmdpad.models.segmentors.answering_ahead import Drawn
from mmdpad.registry import HOOKS
from mmdpad.utils import jsonable, read_jsonl, to_jsonl, unique_path

# Key of a sample's metainfo, and its value: a response and whether it is truncated, or with several
# answers those that were sampled, the greedy one and the seconds for the former.
Cached = tuple[str, tuple[Any, ...]]


@HOOKS.register_module()
class ResponseCacheHook(Hook):
    """Writes each response of a test to ``answers.jsonl`` in the run's log directory, batch by
    batch, and resumes from such files.

    Only the response is cached, since it is what takes time. A resumed test parses it, decodes its
    masks and scores it again, so every metric sees all samples and has the same value as in an
    uninterrupted test. Each process has its own file, after the first ``answers_rank1.jsonl`` and
    so on; a resumed test reads the files of all processes and all earlier tests of its work
    directory, and starts a new one. Later runs never change a file.

    The first line describes what generated the responses: ``weights`` (SHA-256 of the policy's),
    ``dtype``, ``prompt_template`` (several by task), ``coordinates``, ``chat_template`` (the start
    of its SHA-256), ``end_tokens``, ``rollout_engine``, ``test_cfg`` of the model and ``fp16`` of
    the loop; ``conversation`` of a model with one. Of a :class:`mmdpad.models.ConceptAgent`, whose
    verdicts are on masks, also its ``protocol``, the ``decoder``'s config and ``decoder_weights``.
    Files that differ in any of these are ignored. Each further line is an answer: ``key`` (a hash
    of the model image's pixels, the question, its task if it names one, and the item's index in the
    data set, so no other prompt matches), ``id``, ``question``, ``response``, ``truncated``. Where
    one of several answers is chosen (``num_samples``), ``samples`` has all of them with their
    tokens and mean log-probabilities, and ``greedy`` the greedy one, so that a resumed test chooses
    among the same; the selector may be another one then.

    The hook does nothing for models other than :class:`ReasoningSegmentor`.

    Args:
        resume: Reuse the answers of earlier tests in the work directory.
    """

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume
        self._active = False  # in a test

    def before_val(self, runner: Runner) -> None:
        """Leave a validation alone."""
        self._active = False

    def before_test(self, runner: Runner) -> None:
        """Read earlier answers and start this run's file.

        Raises:
            ValueError: ``resume`` is set, but there are no answers of an earlier test, or all come
                from another policy or other settings.
        """
        model = unwrap(runner.model)
        self._active = isinstance(model, ReasoningSegmentor)
        if not self._active:
            return
        maker = describe_maker(model, runner.test_loop.fp16)
        self._stored: dict[str, Cached] = {}
        if self.resume:
            self._stored = self._read(runner, maker)
            runner.logger.info(f'{len(self._stored)} answers of earlier tests are available')
        self._keys: dict[int, list[str]] = {}  # of the batches that are not written yet
        self._taken = 0
        rank = get_rank()
        name = f'answers_rank{rank}.jsonl' if rank else 'answers.jsonl'
        self._path = unique_path(osp.join(runner.log_dir, name))
        self._append([maker])

    def before_answering(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Attach cached answers to samples of a test that were answered before."""
        if not self._active or batch_idx in self._keys:
            return
        self._keys[batch_idx] = keys = prompt_keys(data_batch)
        taken = 0
        for sample, key in zip(data_batch['data_samples'], keys, strict=True):
            if key in self._stored:
                sample.set_metainfo(dict([self._stored[key]]))
                taken += 1
        self._taken += taken
        if batch_idx == 0 and self._stored and not taken:
            runner.logger.warning(
                'No cached answer matches a prompt of the first batch: the data, its order or the '
                'size of the model images differs from the earlier test. All prompts without a '
                'cached answer are answered now')

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """:meth:`before_answering`, if the loop did not call it."""
        self.before_answering(runner, batch_idx, data_batch)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        """Write the new answers of a batch."""
        if not self._active:
            return
        self._append([
            dict(key=key, id=sample.get('img_id'), question=sample.question,
                 response=sample.reasoning['response'], truncated=sample.reasoning['truncated'],
                 **_describe_selection(sample))
            for key, sample in zip(self._keys.pop(batch_idx), outputs or (), strict=True)
            if not ('cached_response' in sample or 'cached_responses' in sample)])

    def after_test(self, runner: Runner) -> None:
        """Log how many answers were reused."""
        if self._active and self.resume:
            runner.logger.info(f'{self._taken} answers were reused from earlier tests')

    def _append(self, rows: list[dict]) -> None:
        if rows:
            lines = to_jsonl(rows)
            with open(self._path, 'ab', buffering=len(lines)) as file:  # a single write
                file.write(lines)

    def _read(self, runner: Runner, maker: dict) -> dict[str, Cached]:
        """The answers of all earlier files whose first line equals ``maker``; the latest one for
        each prompt."""
        stored: dict[str, Cached] = {}
        differences: list[str] = []
        found = False
        for path in find_answers(runner.work_dir):
            if path.parent == Path(runner.log_dir):
                continue  # another process of this run
            rows = _read_rows(path, runner)
            if not rows:
                continue
            if rows[0] == maker:
                found = True
                stored.update((row['key'], _cached(row)) for row in rows[1:])
            else:
                differences = [f'`{name}`: {rows[0].get(name)} there, {value} here'
                               for name, value in maker.items() if rows[0].get(name) != value]
                latest = path
        if found:
            return stored
        if differences:
            raise ValueError(
                f'To resume a test, answers of the same policy and settings should be in '
                f'{runner.work_dir!r}, but {str(latest)!r} differs in {"; ".join(differences)}; '
                f'name the checkpoint and settings of that test, or leave out `--resume`')
        raise ValueError(f'To resume a test, answers.jsonl of an earlier one should be in a folder '
                         f'of {runner.work_dir!r}, but there is none; leave out `--resume`')


def _describe_selection(sample: Any) -> dict[str, Any]:
    """What a row has of the answers of which one was chosen."""
    if 'selection' not in sample:
        return {}
    *samples, greedy = (None if one is None else dict(
        response=one.response, truncated=one.truncated, mean_logp=one.mean_logp,
        tokens=None if one.response_ids is None else one.response_ids.tolist())
        for one in (*sample.selection.candidates, sample.selection.greedy))
    return dict(samples=samples, greedy=greedy, seconds=sample.selection.seconds['sample'])


def _cached(row: Mapping[str, Any]) -> Cached:
    """What a sample gets of a row."""
    if 'samples' not in row:
        return 'cached_response', (row['response'], row['truncated'])
    *drawn, greedy = (None if one is None else Drawn(
        one['response'], one['truncated'],
        None if one['tokens'] is None else torch.tensor(one['tokens'], dtype=torch.long),
        one['mean_logp']) for one in (*row['samples'], row['greedy']))
    return 'cached_responses', (drawn, greedy, row.get('seconds', 0.0))


def find_answers(work_dir: str) -> list[Path]:
    """The files of :class:`ResponseCacheHook` in a work directory, in the order of their runs."""
    return sorted(Path(work_dir).glob('*/answers*.jsonl'))


def describe_maker(model: ReasoningSegmentor, fp16: bool) -> dict[str, Any]:
    """What a response depends on besides its prompt, as plain data. The weights' digest is taken
    from :class:`ProvenanceHook` if it has computed one for this test."""
    known = published().get('provenance', {}).get('weights', {})
    maker = dict(
        weights=known.get('policy') or digest_weights(model.policy),
        dtype=str(next(model.policy.parameters()).dtype),
        prompt_template=_templates(model), coordinates=model.policy.coordinates,
        chat_template=model.policy.encoder.chat.digest, end_tokens=model.policy.end_tokens,
        rollout_engine=type(model.rollout_engine).__name__, test_cfg=dict(model.test_cfg),
        fp16=fp16, **({} if model.conversations is None else
                      dict(conversation=model.conversations.describe())))
    if isinstance(model, ConceptAgent):
        maker |= dict(model.protocol, decoder=model.decoder_config)
    elif model.conversations is not None and model.decoder is not None:  # which may draw masks
        maker |= dict(decoder=[type(model.decoder).__name__, getattr(model.decoder, 'variant', '')],
                      decode_in_crop=model.decode_in_crop)
    if 'decoder' in maker and model.decoder is not None:
        maker['decoder_weights'] = known.get('decoder') or digest_weights(model.decoder)
    return jsonable(maker)


def _templates(model: ReasoningSegmentor) -> str | dict[str, str]:
    """The prompt template of the only task, or those of all tasks by name."""
    templates = model.policy.encoder.templates
    return next(iter(templates.values())) if len(templates) == 1 else templates


@torch.no_grad()
def digest_weights(module: nn.Module) -> str:
    """SHA-256 of the names and values of a module's state, independent of file and device. Takes
    about 20 s for 15 GB."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}\n'.encode())
        digest.update(to_full(value).cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def prompt_keys(data_batch: dict) -> list[str]:
    """A key for each prompt of a batch, computed before encoding."""
    keys = []
    for image, sample in zip(data_batch['inputs']['model_image'], data_batch['data_samples'],
                             strict=True):
        task = sample.get('task')
        head = (sample.question, sample.get('sample_idx'), tuple(image.shape),
                *(() if task is None else (task, )))
        digest = hashlib.sha256(repr(head).encode('utf-8', 'backslashreplace'))
        digest.update(image.cpu().contiguous().numpy())
        keys.append(digest.hexdigest())
    return keys


def _read_rows(path: Path, runner: Runner) -> list[dict]:
    rows = list(read_jsonl(str(path)))
    if not path.read_bytes().endswith(b'\n'):
        runner.logger.warning(f'{path} ends in the middle of a line, probably because its run was '
                              f'killed; if the line is unreadable, its prompt is answered again')
    return rows
