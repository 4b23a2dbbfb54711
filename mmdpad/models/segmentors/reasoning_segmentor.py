# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The mmdet detector: a policy that answers, and a frozen decoder that predicts masks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, ClassVar

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.models.non_finite import naming_samples, shared_message
from mmdpad.models.precision import find_untrainable_weights
from mmdpad.models.rollouts.conversations import Conversation
from mmdpad.models.rollouts.sampling import Responses, evaluating
from mmdpad.prompts import MAX_OBJECTS
from mmdpad.registry import MODELS, ROLLOUTS
from mmdpad.rl import LossInputs
from mmdpad.structures import AnsweredObject, ConversationRecord, RolloutBatch
from mmdpad.tasks import Parsed, Task, build_tasks, find_task

from . import answering_ahead, conversing, prediction, settings
from .answering_ahead import Inputs
from .box_scores import build_box_scorer
from .choosing import Choice
from .mask_decoding import Answer, Window, decode_group, decode_masks, find_unsuited
from .reference import frozen_copy, reference_log_probs
from .started_rollout import StartedRollout, finish
from .state_hooks import keep_policy_only


@MODELS.register_module()
class ReasoningSegmentor(BaseDetector):
    """Answers a question about an image as its task says: with reasoning, a box, two points, a
    caption and a mask, or with other tasks (:mod:`mmdpad.tasks`) with labelled boxes and so on.

    Checkpoints hold only the policy, or only its adapter if it has one. The weights of the decoder
    and the reference policy, and those under the adapter, come from the config.

    Args:
        policy: Config of a policy head, see :class:`VLMReasoningHead`.
        decoder: Config of a mask decoder; None if only the policy is trained.
        rollout_engine: Config of the engine that samples responses; use ``dict(type='HFRollout')``
            for a policy whose ``attn_implementation`` is not 'shared_prefix'.
        tasks: Name -> config of a task, see :func:`mmdpad.tasks.build_tasks`. A data sample names
            its task by the metainfo ``task``; without it, it is of the first. None for a single
            :class:`mmdpad.tasks.SegmentationTask` with the following arguments and the policy's
            ``prompt_template``:
        reference_compatible: See :func:`mmdpad.prompts.parse_response`.
        several_objects: An answer is a list of objects, empty if no object matches; for a policy
            with ``prompt_template='several_objects'``.
        max_objects: Maximum number of objects in such an answer; a longer one cannot be used.
        loss: Config of a :class:`mmdpad.rl.PolicyLoss`, such as :class:`mmdpad.rl.GRPOLoss`.
        box_scorer: Config of a :class:`mmdpad.models.scorers.BoxScorer`, which gives the boxes of
            tasks with labels their scores; None: every box has the score 1.
        conversation: Settings of conversations in which the policy looks closer before it answers
            (docs/rollouts.md), see :func:`.settings.conversation_settings`; None: it answers at
            once.
        train_cfg: ``group_size`` (G), ``temperature``, ``max_new_tokens``, ``top_p``, ``top_k`` of
            the rollout.
        test_cfg: ``temperature`` (0: greedy), ``max_new_tokens``, ``top_p``, ``top_k``, ``seed``;
            with ``num_samples``, so many answers are sampled, and one is chosen (docs/choosing.md):
            ``select``, ``abstain_below``, ``abstain_by``, ``compare_greedy``, see
            :class:`.choosing.Choice`.
        data_preprocessor, init_cfg: As in mmdet.

    Attributes:
        test_templates: Name -> template of the prompts of an evaluation, for a class that does not
            ask its questions with the policy's template then.
    """

    test_templates: ClassVar[dict[str, str]] = {}

    def __init__(self, policy: dict, decoder: dict | None = None,
                 rollout_engine: dict = dict(type='SharedPrefixRollout'),  # noqa: B006
                 reference_compatible: bool = False, several_objects: bool = False,
                 max_objects: int = MAX_OBJECTS, loss: dict = dict(type='GRPOLoss'),  # noqa: B006
                 train_cfg: dict | None = None, test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None, init_cfg: dict | None = None,
                 tasks: dict | None = None, box_scorer: dict | None = None,
                 conversation: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.tasks = build_tasks(
            tasks, several_objects=several_objects, max_objects=max_objects,
            reference_compatible=reference_compatible,
            prompt_template=policy.get('prompt_template', 'default'))
        self.policy = MODELS.build(policy)
        if tasks is not None:
            self.policy.encoder.templates = {name: task.template
                                             for name, task in self.tasks.items()}
        # Checked on the weights as built: in FSDP2's passes they are copies of another dtype.
        self.untrainable = find_untrainable_weights(self.policy)
        self.decoder = None if decoder is None else MODELS.build(decoder)
        for problem in find_unsuited(self.decoder, self.tasks):
            raise ValueError(problem)
        self.reference: nn.Module | None = None
        settings.check_part('rollout_engine', rollout_engine, 'SharedPrefixRollout')
        self.rollout_engine = ROLLOUTS.build(rollout_engine)
        self.rollout_engine.check_policy(self.policy)
        self.objective = settings.build_loss(loss)
        self.sampling = settings.training_sampling(train_cfg or {})
        self._check_loss()
        self.test_cfg = settings.evaluation_sampling(test_cfg or {})
        self.choice = Choice.of(test_cfg or {}, self.tasks)
        self.box_scorer = build_box_scorer(box_scorer, self.tasks, self.policy)
        self.conversations = conversing.build_conversations(
            self, dict(conversation=conversation, train_cfg=train_cfg, test_cfg=test_cfg))
        self.decode_in_crop = bool((conversation or {}).get('decode_in_crop'))
        keep_policy_only(self)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As in mmdet. ``inputs`` may also be a list of B dicts of one image each, as mmdet's
        ``inference_detector`` passes them."""
        if isinstance(inputs, list):
            inputs = pseudo_collate(inputs)
        return super().forward(inputs, data_samples, mode)

    def init_weights(self) -> None:
        """Run :meth:`check_trainable` and apply ``init_cfg``; mmengine calls this before training.
        All parts have their weights, and mmengine's method cannot handle 4- or 8-bit weights."""
        self.check_trainable()
        if self.init_cfg:
            super().init_weights()

    def check_trainable(self) -> None:
        """Raise ValueError if the policy cannot be trained: its own ``check_trainable``, if it has
        one, fails, or the dtype of its weights loses the optimizer's updates."""
        getattr(self.policy, 'check_trainable', lambda: None)()
        if self.untrainable:
            raise ValueError(self.untrainable)

    def allow_staleness(self) -> None:
        """Prepare for training on rollouts of older weights.

        Raises:
            ValueError: The loss does not correct for it, or not with this rollout engine or
                sampling.
        """
        self.objective.correct_staleness()
        self._check_loss()

    def _check_loss(self) -> None:
        settings.check_loss(self.objective, self.sampling, type(self.rollout_engine).__name__,
                            self.rollout_engine.records_log_probs)

    def task_of(self, data_sample: DetDataSample) -> Task:
        """The task of a data sample, see :func:`mmdpad.tasks.find_task`."""
        return find_task(data_sample.get('task'), self.tasks)

    def build_reference(self) -> None:
        """Keep a frozen copy of the current policy if the loss needs a reference (KL) and the
        policy has no adapter; with its adapter off, a policy is its own reference."""
        if self.objective.needs_reference and not self.policy.has_adapter:
            self.reference = frozen_copy(self.policy)

    def train(self, mode: bool = True) -> ReasoningSegmentor:
        super().train(mode)
        for module in (self.decoder, self.reference):
            if module is not None:
                module.eval()
        return self

    def rollout(self, inputs: Inputs, data_samples: list[DetDataSample],
                **sampling: Any) -> RolloutBatch:
        """Sample responses and parse them, see :meth:`start_rollout`."""
        return self.finish_rollout(self.start_rollout(inputs, data_samples, **sampling))

    def start_rollout(self, inputs: Inputs, data_samples: list[DetDataSample],
                      responses: Responses | None = None, **sampling: Any) -> StartedRollout:
        """Start to sample responses with the current weights, for :meth:`finish_rollout`.

        Args:
            inputs: ``model_image``: B uint8 tensors (3, h, w), RGB; optionally ``image``, the
                original frames, and ``prompt``, the encoded prompts.
            data_samples: B data samples with ``question``.
            responses: What an equal call returned before the run was interrupted. Nothing is
                sampled then.
            **sampling: Overrides of ``train_cfg``, see :class:`RolloutEngine`.
        """
        started = self._start(inputs, data_samples, responses, **self.sampling | sampling)
        if getattr(self.policy, 'vision_is_fixed', False):
            # Now, if the engine did not: the passes of an update then skip the vision tower on all
            # processes alike.
            replies = [reply for talk in started.talks or () for reply in talk.replies]
            with torch.no_grad(), evaluating(self.policy):
                self.policy.encode_images([*started.prompts, *replies])
        return started

    def hand_over(self) -> None:
        """See :meth:`.RolloutEngine.hand_over`."""
        self.rollout_engine.hand_over(self.policy)

    def _start(self, inputs: Inputs, data_samples: list[DetDataSample],
               responses: Responses | None = None, **sampling: Any) -> StartedRollout:
        """:meth:`start_rollout` within a forward pass; FSDP2 would treat a call of it as another
        pass."""
        self._name_tasks(data_samples)
        prompts = self.encode_prompts(inputs, data_samples)
        talks: list[Conversation] | None = None
        if self.conversations is not None:
            with naming_samples(data_samples):
                responses, talks = conversing.converse(self, prompts, inputs, data_samples,
                                                       **sampling)
        if responses is None:
            with naming_samples(data_samples):
                future = self.rollout_engine.submit(self.policy, prompts, **sampling)
        else:
            future = Future()
            future.set_result(responses.to(self.policy.device))
        return StartedRollout(inputs, data_samples, prompts, sampling, future, talks)

    def finish_rollout(self, started: StartedRollout) -> RolloutBatch:
        """Wait for the responses, and parse them.

        Raises:
            NonFiniteError: See :class:`RolloutEngine`; the message names the question.
        """
        return finish(self, started)

    def _name_tasks(self, data_samples: Sequence[DetDataSample]) -> None:
        """Give samples without a task the first one's name, so that rewards and metrics know it."""
        for sample in data_samples:
            if sample.get('task') is None:
                sample.set_metainfo(dict(task=next(iter(self.tasks))))

    def _read(self, text: str, model_image: Tensor,
              data_sample: DetDataSample) -> tuple[Parsed, int | None]:
        """Parse a response about an image (3, h, w), and count the tokens of its reasoning (None
        without any). Boxes and points are converted from the policy's coordinates to pixels of the
        image, as everything after this call expects."""
        answer = self.task_of(data_sample).parse(text)
        height, width = model_image.shape[-2:]
        return (to_model_frame(answer, self.policy.coordinates, (height, width)),
                self.policy.count_tokens(answer.think))

    def encode_prompts(self, inputs: Inputs, data_samples: list[DetDataSample]) -> list[Any]:
        """Encode the prompts of B images and the samples' questions, or return those that a data
        loader's worker has encoded."""
        if 'prompt' in inputs:
            return inputs['prompt']
        return self.policy.encode_prompts(inputs['model_image'],
                                          [s.question for s in data_samples],
                                          [s.get('task') for s in data_samples])

    def loss(self, inputs: RolloutBatch | Inputs, data_samples: Any = None) -> dict[str, Tensor]:
        """Compute the loss of a finished rollout, by the config's :class:`mmdpad.rl.PolicyLoss`.

        Args:
            inputs: A rollout with advantages; or a batch of images, see :meth:`supervised_loss`.
            data_samples: Unused with a rollout, which holds them.

        Returns:
            ``loss``, and scalars for the log such as ``pg`` and ``kl``.

        Raises:
            ValueError: Gradients are enabled for weights whose dtype loses the optimizer's updates.
        """
        if self.untrainable and torch.is_grad_enabled():
            raise ValueError(self.untrainable)
        if not isinstance(inputs, RolloutBatch):
            return self.supervised_loss(inputs, data_samples)
        tokens = self._tokens_of(inputs)
        # First, so that its pass does not come on top of what the policy's keeps.
        if inputs.ref_logp is None and self.objective.needs_reference:
            inputs = replace(inputs, ref_logp=self._reference_log_probs(*tokens))
        logp, entropy = self.policy.log_probs(*tokens, entropy=self.objective.entropy)
        return self.objective.entries(LossInputs.of(
            inputs, self.objective.token_mask(inputs), logp, entropy, self.most_tokens))

    @property
    def most_tokens(self) -> int:
        """The most tokens that the policy can choose in answering a question of a rollout."""
        longest = self.sampling['max_new_tokens']
        return longest if self.conversations is None else self.conversations.most_tokens(longest)

    def supervised_loss(self, inputs: Inputs,
                        data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Compute the cross entropy of SFT targets, see :meth:`VLMReasoningHead.supervised_loss`.

        Args:
            inputs: ``model_image``: B uint8 tensors (3, h, w), RGB.
            data_samples: B data samples with ``question`` and ``response``.

        Returns:
            ``loss`` and scalars for the log: ``perplexity``, ``response_tokens``.

        Raises:
            TypeError, ValueError: See :func:`.settings.check_sft_targets`.
        """
        settings.check_sft_targets(inputs, data_samples, self.policy.coordinates)
        prompts = self.encode_prompts(inputs, data_samples)
        with shared_message(), naming_samples(data_samples):
            loss, scalars = self.policy.supervised_loss(prompts,
                                                        [s.response for s in data_samples])
        return {'loss': loss, **scalars}

    @torch.no_grad()
    def log_probs(self, rollout: RolloutBatch
                  ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute (N, R) log-probabilities of a rollout under the current policy, and, where the
        loss needs them, else None, those under the reference and the entropies in nats."""
        tokens, loss = self._tokens_of(rollout), self.objective
        logp, entropy = self.policy.log_probs(
            *tokens, entropy='no_grad' if loss.top_entropy_quantile < 1 else None)
        ref_logp = self._reference_log_probs(*tokens) if loss.needs_reference else None
        return logp, ref_logp, entropy

    def _reference_log_probs(self, *tokens: Any) -> Tensor:
        """(N, R), see :func:`.reference.reference_log_probs`."""
        return reference_log_probs(self.policy, self.reference, *tokens)

    def _tokens_of(self, rollout: RolloutBatch) -> tuple[Any, Tensor, Tensor, float, Any]:
        """Collect the prompts, responses, mask, temperature and replies for a head's ``log_probs``.
        """
        prompts = rollout.prompts or self.encode_prompts(dict(model_image=rollout.model_images),
                                                  rollout.data_samples)
        return (prompts, rollout.response_ids, rollout.response_mask,
                self.sampling['temperature'], rollout.replies)

    @torch.no_grad()
    def predict(self, inputs: Inputs, data_samples: list[DetDataSample],
                **kwargs: Any) -> list[DetDataSample]:
        """Answer each question and decode the masks.

        Args:
            inputs: ``image`` (B uint8 tensors (3, H, W), RGB, original frame) and
                ``model_image`` (B uint8 tensors (3, h, w), RGB).
            data_samples: B data samples with ``question``. A sample with ``cached_response``, a
                pair of ``response`` and ``truncated``, uses that response instead of a new one, and
                so does one from :meth:`answer_ahead`.

        Returns:
            The data samples with ``pred_instances`` (``bboxes`` (n, 4) and ``points`` (n, P, 2) in
            the original frame, ``masks`` bool (n, H, W), ``scores`` (n,), ``labels`` (n,), and
            sometimes ``fallback``, see :meth:`decode_masks`; of a task that decodes no masks, see
            :func:`.box_instances.box_instances`) for the n objects of the answer, none if the
            response cannot be used; and ``reasoning``, a dict of ``response``, ``parsed``,
            ``reasoning_tokens``, ``caption_tokens``, ``truncated`` and ``seconds`` (``answer``,
            averaged over the batch; ``draw``, without work that is still queued on a GPU), and
            ``invented`` of a task that decodes no masks. With ``num_samples``, both are those of
            the chosen answer, and ``selection`` is a :class:`mmdpad.structures.Selection`. With
            ``conversation``, ``response`` has all turns (:func:`mmdpad.structures.read_turns`), and
            ``conversation`` is a :class:`mmdpad.structures.ConversationRecord`.
        """
        return prediction.predict(self, inputs, data_samples)

    def answer_ahead(self, batches: Iterable[dict[str, Any]]
                     ) -> Generator[dict[str, Any], None, None]:
        """Sample the responses of batches for :meth:`predict`, several batches at a time
        (:meth:`.RolloutEngine.stream`).

        Close the iterator if you do not exhaust it.

        Args:
            batches: Batches of a data loader: dicts of ``inputs`` and ``data_samples``. Samples
                with ``cached_response`` are not asked.

        Yields:
            The batches, in order, whose samples have their responses.

        Raises:
            NonFiniteError: See :class:`RolloutEngine`; the message names the question.
        """
        return answering_ahead.answer_ahead(self, batches)

    @staticmethod
    def next_responses(stream: Iterator[Responses]) -> Responses | None:
        """Sample the next responses of a :meth:`.RolloutEngine.stream`; None at its end. (A method
        by itself, since sharded weights are gathered for the calls of some methods.)"""
        return next(stream, None)

    def decode_masks(self, objects: Sequence[AnsweredObject], image: Tensor,
                     model_shape: tuple[int, int], caption: str | None = None,
                     window: Window | None = None) -> InstanceData:
        """Decode the masks of n objects in one image, see :func:`.mask_decoding.decode_masks`.

        Args:
            objects: Boxes and points in pixels of the model image.
            image: uint8 (3, H, W), RGB, the original frame.
            model_shape: (h, w) of the model image.
            caption: That of the answer, or None.
            window: XYXY in whole pixels of the original frame, the only part that the decoder sees.

        Returns:
            ``bboxes`` (n, 4) and ``points`` (n, P, 2) in the original frame, ``masks`` bool
            (n, H, W), ``scores`` (n,), ``labels`` (n,); see there for more.
        """
        return decode_masks(self.decoder, objects, image, model_shape, caption, window)

    def decode_group(self, answers: Sequence[Answer], image: Tensor, model_shape: tuple[int, int],
                     windows: Sequence[Window | None] | None = None) -> list[InstanceData]:
        """:meth:`decode_masks` for several answers about one image, which is encoded once for each
        part that is seen.

        Args:
            answers: Objects and caption of each.
            image, model_shape, windows: As there; a window for each answer, or None.
        """
        return decode_group(self.decoder, answers, image, model_shape, windows)

    def windows_of(self, records: Sequence[ConversationRecord | None] | None
                   ) -> list[Window | None] | None:
        """The ``windows`` of the answers of conversations, see :func:`.conversing.windows_of`."""
        return conversing.windows_of(self, records)

    def _forward(self, inputs: Inputs, data_samples: list[DetDataSample]) -> list[str]:
        """mmdet's mode ``tensor``: return the responses as text, all that are sampled."""
        return self.finish_rollout(self._start(inputs, data_samples, **self.test_cfg)).texts

    def extract_feat(self, inputs: Inputs) -> Any:
        """The vision tower's features of the model images, one (tokens, channels) per image."""
        prompts = self.policy.encode_prompts(inputs['model_image'],
                                             [''] * len(inputs['model_image']))
        return [prompt.vision[0] for prompt in self.policy.encode_images(prompts)]
