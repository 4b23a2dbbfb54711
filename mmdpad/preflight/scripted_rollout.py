# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses of an untrained policy, half of them replaced with a correct one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmdpad.geometry.coordinates import written_shape
from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.rollouts.engine import RolloutEngine
from mmdpad.models.rollouts.sampling import Responses, Sampling, cut_responses, evaluating
from mmdpad.registry import ROLLOUTS
from mmdpad.structures import AnsweredObject
from mmdpad.tasks import Task, build_tasks, find_task

from .synthetic_answers import ANSWER


@ROLLOUTS.register_module()
class ScriptedRollout(RolloutEngine):
    """Generates with another engine, then replaces every second response by a correct one.

    A random policy never writes an answer that can be parsed. Without this engine, no reward,
    decoder or discriminator would have any input, and no group a learning signal.

    Args:
        engine: Config of the engine that generates.
        box: The answer's (x1, y1, x2, y2) as fractions of the model image's width and height. Its
            points are at the center.
        tasks: The tasks of the model, or their configs; None for the default.
        label: The answer's label, where its task has one.
        suffix: Follows the answer.
        engine_tokens: Most tokens that the engine generates; its text is not used.
    """

    def __init__(self, engine: dict, box: Sequence[float],
                 tasks: Mapping[str, Task | dict] | None = None, label: str = 'square',
                 suffix: str = '', engine_tokens: int = 8) -> None:
        self.engine = ROLLOUTS.build(engine)
        self.box = box
        self.tasks, self.label = build_tasks(tasks), label
        self.suffix = suffix
        self.engine_tokens = engine_tokens
        self.records_log_probs = self.engine.records_log_probs

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Check the policy as the wrapped engine does."""
        self.engine.check_policy(head)

    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """See :class:`RolloutEngine`; rows 0, 2, 4, ... hold the scripted response."""
        own = self.engine.sample(head, prompts, how._replace(
            max_new_tokens=min(how.max_new_tokens, self.engine_tokens)))
        rows, mask = head.encode_responses([self._compose(head, prompt) for prompt in prompts])
        rows = rows.where(mask, head.end_tokens[0])[:, :how.max_new_tokens].to(own.ids.device)
        width, length = own.ids.shape[1], rows.shape[1]
        # End the engine's own responses with an end token, as if it had generated one.
        ids = own.ids.new_full((len(own.ids), max(width, length)), head.end_tokens[0])
        ids[:, :width] = own.ids.where(own.mask, head.end_tokens[0])
        group = len(own.ids) // len(prompts)
        ids[::2, :length] = rows[torch.arange(0, len(ids), 2) // group]
        responses = cut_responses(ids, head.end_tokens, head.pad_token)
        if own.logp is None:
            return responses
        with evaluating(head.model):
            logp, _ = head.log_probs(prompts, responses.ids, responses.mask, how.temperature)
        return responses._replace(logp=logp)

    def _compose(self, head: VLMReasoningHead, prompt: EncodedPrompt) -> str:
        """Write the correct answer in the coordinates that the policy uses."""
        assert prompt.image is not None
        height, width = written_shape(head.coordinates, (prompt.image.shape[1],
                                                         prompt.image.shape[2]))
        x1, y1, x2, y2 = self.box
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        points = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), ) * 2
        found = AnsweredObject(box, points, self.label, 'a red square')
        task = find_task(prompt.task, self.tasks)
        return task.compose('it is the red square.', [found], 'a red square', ANSWER,
                            head.coordinates) + self.suffix
