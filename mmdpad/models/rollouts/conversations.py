# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples conversations in which the policy looks closer before it answers, turn by turn.

Notation: B prompts, G conversations about each, N = B * G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmdpad.geometry.coordinates import shape_of
from mmdpad.geometry.crops import Crop, CropLimits
from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.replies import ReplyEncoder
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.prompts.zoom import BadCall, ShowMask, read_turn, reply_text
from mmdpad.structures import ConversationRecord
from mmdpad.utils.number_checks import check_number

from .engine import RolloutEngine
from .sampling import Responses, evaluating

Mask = Callable[[], Tensor] | BadCall
"""A function that draws the mask of an answer, uint8 (3, h, w); or why there is none."""
Found = Crop | Mask | None
"""What a turn asks for: a crop, a mask, or neither."""

_LATER_TURNS = 0x7A6F6F6D
"""Begins the seeds of later turns, so that these draw other numbers than any first turn."""


@dataclass
class Conversation:
    """One conversation.

    Attributes:
        prompt: The prompt of the next turn: all tokens and images so far.
        crops: What the images show that were shown, in order: all of the original image, then parts
            of it.
        texts: What the policy wrote, turn by turn, as :meth:`.VLMReasoningHead.decode` returns it.
        prepare_mask: Gives the mask of an answer about a crop; None if there are no masks.
        masks: How many were drawn.
        bad_calls: Reasons of calls that could not be used (:data:`mmdpad.prompts.zoom.BAD_CALLS`).
        ended_by: One of :data:`mmdpad.structures.conversation.ENDINGS`; empty if it goes on.
        ids, chosen, logp: The tokens after the first prompt in parts (R,): token ids, whether the
            policy chose them, and the engine's log-probabilities, 0 if it does not record them.
    """

    prompt: EncodedPrompt
    crops: list[Crop]
    prepare_mask: Callable[[Crop, str], Mask] | None = None
    masks: int = 0
    texts: list[str] = field(default_factory=list)
    bad_calls: list[str] = field(default_factory=list)
    ended_by: str = ''
    ids: list[Tensor] = field(default_factory=list)
    chosen: list[Tensor] = field(default_factory=list)
    logp: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of tokens after the first prompt."""
        return sum(map(len, self.ids))

    @property
    def replies(self) -> list[EncodedPrompt]:
        """The replies with images."""
        return list(self.prompt.replies)

    @property
    def record(self) -> ConversationRecord:
        """What happened, once it has ended."""
        return ConversationRecord(tuple(self.texts), tuple(self.crops[1:]), tuple(self.bad_calls),
                                  self.ended_by, self.masks)

    def add(self, ids: Tensor, chosen: bool, logp: Tensor | None = None) -> None:
        """Add tokens (R,) that the policy chose, or those of a reply."""
        self.ids.append(ids)
        self.chosen.append(torch.full_like(ids, chosen, dtype=torch.bool))
        self.logp.append(torch.zeros_like(ids, dtype=torch.float32) if logp is None else logp)

    def take(self, reply: EncodedPrompt, device: torch.device) -> None:
        """Continue after the last turn with a reply."""
        self.prompt = self.prompt.followed_by(self.ids[-1], reply)
        self.add(reply.input_ids.to(device), False)


class ConversationSampler:
    """Samples conversations of up to ``max_turns`` turns of the policy.

    After a turn with a call, the policy is shown the part of the image or the mask that it asked
    for, or is told why it is not (:mod:`mmdpad.prompts.zoom`). The first turns of a group share
    their prompt; later turns are prompts of their own, which know how they start
    (:attr:`.EncodedPrompt.first`).

    Args:
        engine: The engine.
        head: The policy.
        max_turns: Most turns of the policy, the answer included.
        max_tokens: Most tokens after the prompt, replies with their images included. A conversation
            ends before a turn that could exceed them.
        limits: How large crops are; None for the defaults.

    Raises:
        ValueError: The policy cannot hold conversations, a number is out of range, the policy's
            processor would resize crops of these limits, or the engine takes fewer tokens or images
            than a conversation may have.
    """

    def __init__(self, engine: RolloutEngine, head: VLMReasoningHead, max_turns: int = 2,
                 max_tokens: int = 4096, limits: CropLimits | None = None) -> None:
        self.max_turns, self.max_tokens = (
            check_number(name, number, 'at least 1', lambda n: n >= 1, True)
            for name, number in dict(max_turns=max_turns, max_tokens=max_tokens).items())
        self.engine, self.head, self.limits = engine, head, limits or CropLimits()
        self.encode_reply = ReplyEncoder(head.encoder)
        for shape in self.limits.extreme_shapes(self.encode_reply.factor):
            self.encode_reply('', torch.zeros(3, *shape, dtype=torch.uint8))
        engine.expect_conversations(self.max_turns, head.encoder.max_tokens + self.max_tokens)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[EncodedPrompt], images: Sequence[Tensor],
                 model_shapes: Sequence[tuple[int, int]], group_size: int = 1,
                 max_new_tokens: int = 1024, seed: int | Sequence[int] = 0,
                 prompt_numbers: Sequence[int] | None = None,
                 prepare_mask: Callable[[int, Crop, str], Mask] | None = None,
                 **sampling: Any) -> tuple[Responses, list[Conversation]]:
        """Sample G conversations about each of B prompts.

        Args:
            prompts: B prompts.
            images: B uint8 tensors (3, H, W), RGB, the original images.
            model_shapes: (height, width) of the model image in each prompt.
            group_size, seed, prompt_numbers: See :class:`.RolloutEngine`.
            max_new_tokens: Maximum length of a response in one turn.
            prepare_mask: Gives the mask of an answer about a crop, from the number of its prompt,
                the crop and the answer's text. It draws on the crop, in its shape. None: a policy
                that asks for a mask is told that there are none.
            **sampling: See :class:`.RolloutEngine`.

        Returns:
            The tokens after the prompts as N responses, whose ``mask`` is False for those of
            replies; ``truncated`` where a limit on tokens ended a conversation. And the N
            conversations.

        Raises:
            ValueError: ``max_new_tokens`` exceeds ``max_tokens``.
            NonFiniteError: See :class:`.RolloutEngine`; ``prompt`` is one of the B.
        """
        if max_new_tokens > self.max_tokens:
            raise ValueError(f'`max_tokens` of a conversation should be at least `max_new_tokens` '
                             f'= {max_new_tokens} of one turn, but got {self.max_tokens}; raise it')
        numbers = range(len(prompts)) if prompt_numbers is None else prompt_numbers
        seeds = (seed, ) if isinstance(seed, int) else tuple(seed)
        talks = [Conversation(prompt, [Crop.whole(shape_of(image), shape)],
                              prepare_mask and partial(prepare_mask, number))
                 for number, (prompt, image, shape) in enumerate(
                     zip(prompts, images, model_shapes, strict=True))
                 for _ in range(group_size)]
        with self.engine.taking_weights(self.head):  # once: others may have fewer turns
            found = self.engine(self.head, prompts, group_size=group_size, seed=seed,
                                max_new_tokens=max_new_tokens, prompt_numbers=numbers, **sampling)
            records, active = found.logp is not None, list(range(len(talks)))
            for turn in range(1, self.max_turns + 1):
                self._take_turns([talks[n] for n in active], found)
                self._reply([talks[n] for n in active], [images[n // group_size] for n in active],
                            found.truncated.tolist(), self.max_turns - turn, max_new_tokens)
                active = [n for n in active if not talks[n].ended_by]
                if not active:
                    break
                try:
                    found = self.engine(
                        self.head, [talks[n].prompt for n in active],
                        seed=(_LATER_TURNS, turn, *seeds), max_new_tokens=max_new_tokens,
                        prompt_numbers=[numbers[n // group_size] * group_size + n % group_size
                                        for n in active], **sampling)
                except NonFiniteError as error:
                    if error.prompt is not None:  # of the active conversations
                        error.prompt = active[error.prompt] // group_size
                    raise
        return self._responses(talks, records), talks

    def _take_turns(self, talks: Sequence[Conversation], found: Responses) -> None:
        """Add what the policy wrote in a turn of each conversation."""
        texts = self.head.decode(found.ids.where(found.mask, self.head.pad_token))
        for row, (talk, text) in enumerate(zip(talks, texts, strict=True)):
            own = found.mask[row]
            talk.add(found.ids[row][own], True, None if found.logp is None else
                     found.logp[row][own])
            talk.texts.append(text)

    def _reply(self, talks: Sequence[Conversation], images: Sequence[Tensor],
               truncated: Sequence[bool], turns_left: int, max_new_tokens: int) -> None:
        """Reply to the last turns of conversations, or end them."""
        replies = []
        for talk, image, cut_off in zip(talks, images, truncated, strict=True):
            found = self.look(talk.texts[-1], talk.crops[-1], shape_of(image), talk.prepare_mask)
            if isinstance(found, BadCall):
                talk.bad_calls.append(found.reason)
            talk.ended_by = _ending(found, cut_off, not turns_left)
            if found is None or talk.ended_by:
                continue
            if isinstance(found, BadCall):
                reply = self.encode_reply(reply_text(found, turns_left - 1))
            elif isinstance(found, Crop):
                reply = self.encode_reply(reply_text(found.shape, turns_left - 1), found.cut(image))
            else:
                reply = self.encode_reply(reply_text(None, turns_left - 1), found())
            if len(talk) + len(reply) + max_new_tokens > self.max_tokens:
                talk.ended_by = 'tokens'
                continue
            replies.append((talk, reply))
            if isinstance(found, Crop):
                talk.crops.append(found)
            talk.masks += callable(found)
        # Once, and not again with the prompt of each turn. An engine with a copy of the weights
        # encodes them by that, and the weights here may be sharded.
        if self.head.vision_is_fixed and not self.engine.copies_weights:
            with evaluating(self.head.model):
                self.head.encode_images([reply for _, reply in replies if len(reply.grid)])
        for talk, reply in replies:
            talk.take(reply, self.head.device)

    def look(self, text: str, crop: Crop, original_shape: tuple[int, int],
             prepare_mask: Callable[[Crop, str], Mask] | None) -> Found:
        """What a turn asks for.

        Args:
            text: What the policy wrote.
            crop: What the image shows that it was shown last.
            original_shape: (height, width) of the original image.
            prepare_mask: See :class:`Conversation`.

        Returns:
            What to show; or why there is nothing; None if the turn has no call.
        """
        call = read_turn(text)
        if call is None or isinstance(call, BadCall):
            return call
        if isinstance(call, ShowMask):
            return prepare_mask(crop, call.answer) if prepare_mask else BadCall('no_masks')
        return crop.zoom(call.box, self.head.coordinates, original_shape, self.limits,
                         self.encode_reply.factor) or BadCall('outside')

    def replay(self, texts: Sequence[str], truncated: bool, original_shape: tuple[int, int],
               model_shape: tuple[int, int],
               prepare_mask: Callable[[Crop, str], Mask] | None = None) -> ConversationRecord:
        """Find out from its texts what happened in a conversation of a sampler with these
        settings.

        Args:
            texts: What the policy wrote, turn by turn.
            truncated: Whether a limit on tokens ended it.
            original_shape, model_shape: (height, width) of the original and the model image.
            prepare_mask: See :class:`Conversation`. No mask is drawn again.
        """
        crops, bad_calls, masks = [Crop.whole(original_shape, model_shape)], [], 0
        found: Found = None
        for number, text in enumerate(texts, start=1):
            found = self.look(text, crops[-1], original_shape, prepare_mask)
            if isinstance(found, BadCall):
                bad_calls.append(found.reason)
            elif number < len(texts):
                crops += [found] if isinstance(found, Crop) else []
                masks += callable(found)
        return ConversationRecord(tuple(texts), tuple(crops[1:]), tuple(bad_calls),
                                  _ending(found, truncated, True), masks)

    def describe(self) -> dict[str, Any]:
        """What a conversation depends on besides the policy, as plain data."""
        return dict(max_turns=self.max_turns, max_tokens=self.max_tokens,
                    limits=asdict(self.limits))

    def most_tokens(self, max_new_tokens: int) -> int:
        """The most tokens that the policy can choose in a conversation whose turns have at most
        ``max_new_tokens`` each."""
        return min(self.max_turns * max_new_tokens, self.max_tokens)

    def _responses(self, talks: Sequence[Conversation], records: bool) -> Responses:
        """The tokens of finished conversations."""
        ids, mask, logp = (pad_sequence([torch.cat(getattr(talk, name)) for talk in talks], True,
                                        padding) for name, padding in
                           dict(ids=self.head.pad_token, chosen=0, logp=0).items())
        truncated = [talk.ended_by in ('length', 'tokens') for talk in talks]
        return Responses(ids, mask, torch.tensor(truncated, device=ids.device),
                         logp if records else None)


def _ending(found: Found, cut_off: bool, is_last: bool) -> str:
    """How a turn ends a conversation, one of ``ENDINGS``; empty if it does not.

    Args:
        found: What the turn asks for.
        cut_off: Whether a limit on tokens ended it.
        is_last: Whether no turn is left.
    """
    if found is None:
        return 'length' if cut_off else 'answer'
    return 'tokens' if cut_off else 'turns' if is_last else ''
