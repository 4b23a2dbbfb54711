# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The detector that mmdet sees: a policy that answers, and a frozen decoder that draws."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdpad.geometry.coordinates import scale_boxes, scale_points, to_prompt_frame
from mmdpad.models.non_finite import naming_samples, shared_message
from mmdpad.models.precision import find_untrainable_weights
from mmdpad.models.rollouts.sampling import check_sampling
from mmdpad.prompts import MAX_OBJECTS, parse_response
from mmdpad.registry import MODELS, ROLLOUTS
from mmdpad.rl import check_objective, policy_loss
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput, RolloutBatch

from .state_hooks import check_fit, drop_frozen, expect_no_frozen

Inputs = dict[str, list[Tensor]]


@MODELS.register_module()
class ReasoningSegmentor(BaseDetector):
    """Answers a question about an image with reasoning, a box, two points, a caption and a mask.

    Checkpoints hold the policy only, or only its adapter where it has one: the decoder's weights,
    the reference policy's and those under the adapter come from the config.

    Args:
        policy: Config of a policy head, see :class:`VLMReasoningHead`.
        decoder: Config of a mask decoder; None if only the policy is trained.
        rollout_engine: Config of what samples responses; ``dict(type='HFRollout')`` for a policy
            whose ``attn_implementation`` is not 'shared_prefix'.
        reference_compatible: See :func:`mmdpad.prompts.parse_response`.
        several_objects: An answer is a list of objects, an empty one where nothing is meant; for a
            policy that is asked so (``prompt_template='several_objects'``).
        max_objects: Of such an answer; a longer one cannot be used.
        train_cfg: ``group_size`` (G), ``temperature``, ``max_new_tokens``, ``top_p``, ``top_k`` of
            the rollout; ``clip_ratio``, ``clip_ratio_high``, ``ratio_level``, ``surrogate``,
            ``kl_coef``, ``kl_estimator``, ``entropy_coef``, ``aggregation`` of
            :func:`mmdpad.rl.policy_loss` ('seq_mean_token_sum_norm' divides by
            ``max_new_tokens``); ``kl_in``: 'loss' or 'reward' (there the KL estimate, summed over
            a response's tokens, is taken off its reward); ``truncated``: 'count', or 'mask' to
            leave responses that hit the length limit out of the loss (DAPO, arXiv 2503.14476);
            ``importance_cap`` of :func:`mmdpad.rl.policy_loss`, for an engine that records
            log-probabilities.
        test_cfg: ``temperature`` (0: greedy), ``max_new_tokens``, ``top_p``, ``top_k``, ``seed``.
        data_preprocessor, init_cfg: As in mmdet.
    """

    def __init__(self,
                 policy: dict,
                 decoder: dict | None = None,
                 rollout_engine: dict = dict(type='SharedPrefixRollout'),  # noqa: B006
                 reference_compatible: bool = False,
                 several_objects: bool = False,
                 max_objects: int = MAX_OBJECTS,
                 train_cfg: dict | None = None,
                 test_cfg: dict | None = None,
                 data_preprocessor: dict | None = None,
                 init_cfg: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.policy = MODELS.build(policy)
        # Of the weights as built: within a pass of FSDP2 they are copies of another type.
        self.untrainable = find_untrainable_weights(self.policy)
        self.decoder = None if decoder is None else MODELS.build(decoder)
        self.reference: nn.Module | None = None
        self.rollout_engine = ROLLOUTS.build(rollout_engine)
        self.rollout_engine.check_policy(self.policy)
        self.reference_compatible = reference_compatible
        if max_objects < 1:
            raise ValueError(f'`max_objects` should be at least 1, but got {max_objects}')
        self.several_objects = several_objects
        self.max_objects = max_objects
        self.sampling, self.objective, self.train_options = split_train_cfg(train_cfg or {})
        if self.objective['importance_cap'] and not self.rollout_engine.records_log_probs:
            raise ValueError(
                f'`rollout_engine` should record the log-probabilities of what it samples where '
                f'`train_cfg.importance_cap` is set, but got {type(self.rollout_engine).__name__}; '
                f"use `dict(type='SharedPrefixRollout', records_log_probs=True)`, or "
                f'leave `importance_cap` out')
        self.test_cfg = {'temperature': 0.0, 'max_new_tokens': 1024, **(test_cfg or {})}
        check_sampling(self.test_cfg, 'test_cfg')
        self.register_state_dict_post_hook(drop_frozen)
        self._register_load_state_dict_pre_hook(check_fit, with_module=True)
        self.register_load_state_dict_post_hook(expect_no_frozen)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """As in mmdet. ``inputs`` may also be a list of B dicts of one image each, as mmdet's
        ``inference_detector`` hands them over."""
        if isinstance(inputs, list):
            inputs = pseudo_collate(inputs)
        return super().forward(inputs, data_samples, mode)

    def init_weights(self) -> None:
        """Only :meth:`check_trainable`, since mmengine calls this before training, and what
        ``init_cfg`` asks for: all parts came with their weights. (mmengine's own method cannot
        handle weights of 4 or 8 bits.)"""
        self.check_trainable()
        if self.init_cfg:
            super().init_weights()

    def check_trainable(self) -> None:
        """Check that the policy can be trained.

        Raises:
            ValueError: See :meth:`VLMReasoningHead.check_trainable`, if the policy has that method;
                or weights have a type in which an optimizer's steps are lost.
        """
        check = getattr(self.policy, 'check_trainable', None)
        if check is not None:
            check()
        if self.untrainable:
            raise ValueError(self.untrainable)

    def build_reference(self) -> None:
        """Keep a frozen copy of the policy as it is now: the reference of the KL term.

        A policy with an adapter needs none: without the adapter it is its own reference. A vision
        tower that is not trained is shared, with what it has seen.
        """
        if self.policy.has_adapter:
            return
        tower = self.policy.model.model.visual
        shared = {id(tower): tower} if self.policy.vision_is_fixed else {}
        self.reference = copy.deepcopy(self.policy, shared).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ReasoningSegmentor:
        super().train(mode)
        for module in (self.decoder, self.reference):
            if module is not None:
                module.eval()
        return self

    def rollout(self, inputs: Inputs, data_samples: list[DetDataSample],
                **sampling: Any) -> RolloutBatch:
        """Sample responses and read them.

        Args:
            inputs: ``prompt_image``: B uint8 tensors (3, h, w), RGB; optionally ``image``, the
                original frames, and ``prompt``, the encoded prompts.
            data_samples: B data samples with ``question``.
            **sampling: As in :class:`RolloutEngine`, ``group_size`` included.
        """
        return self._sample(inputs, data_samples, **sampling)

    def _sample(self, inputs: Inputs, data_samples: list[DetDataSample],
                **sampling: Any) -> RolloutBatch:
        """:meth:`rollout` within a forward pass: FSDP2 takes a call of that for one of its own."""
        prompts = self._encode(inputs, data_samples)
        with naming_samples(data_samples):
            responses = self.rollout_engine(self.policy, prompts, **sampling)
        texts = self.policy.decode(responses.ids.where(responses.mask, self.policy.pad_token))
        group_size = sampling.get('group_size', 1)
        parsed = [self._parse(text, inputs['prompt_image'][n // group_size])
                  for n, text in enumerate(texts)]
        lengths = [self.policy.count_tokens(p.think) for p in parsed]
        return RolloutBatch(
            data_samples=data_samples, prompt_images=inputs['prompt_image'],
            images=inputs.get('image'), prompts=prompts,
            group_size=group_size, texts=texts, parsed=parsed,
            response_ids=responses.ids, response_mask=responses.mask,
            truncated=responses.truncated, sampling_logp=responses.logp,
            think_tokens=torch.tensor([torch.nan if n is None else float(n) for n in lengths]))

    def _parse(self, text: str, prompt_image: Tensor) -> ReasoningOutput | ParseFailure:
        """A response about an image (3, h, w), with boxes and points in its pixels, whatever
        coordinates the policy writes. Everything behind this call is in pixels."""
        answer = parse_response(text, self.reference_compatible, self.several_objects,
                                self.max_objects)
        return to_prompt_frame(answer, self.policy.coordinates, tuple(prompt_image.shape[-2:]))

    def _encode(self, inputs: Inputs, data_samples: list[DetDataSample]) -> list[Any]:
        """The policy's prompts for B images and the samples' questions; those that a data
        loader's worker encoded, where there are."""
        if 'prompt' in inputs:
            return inputs['prompt']
        return self.policy.encode_prompts(inputs['prompt_image'],
                                          [s.question for s in data_samples])

    def loss(self, inputs: RolloutBatch | Inputs, data_samples: Any = None) -> dict[str, Tensor]:
        """The GRPO loss of a finished rollout, see :func:`mmdpad.rl.policy_loss`.

        Args:
            inputs: A rollout with advantages; or a batch of images, see :meth:`supervised_loss`.
            data_samples: Unused with a rollout, which holds them.

        Returns:
            ``loss`` and scalars for the log: ``pg``, ``kl``, ``clip_frac``, ``approx_kl``,
            ``entropy``, and ``mismatch/...`` where the engine recorded log-probabilities.

        Raises:
            ValueError: Gradients are enabled for weights of a type in which an optimizer's steps
                are lost.
        """
        if self.untrainable and torch.is_grad_enabled():
            raise ValueError(self.untrainable)
        if not isinstance(inputs, RolloutBatch):
            return self.supervised_loss(inputs, data_samples)
        rollout, objective = inputs, self.objective
        tokens = self._tokens_of(rollout)
        logp, entropy = self.policy.log_probs(
            *tokens, entropy='grad' if objective['entropy_coef'] else 'no_grad')
        ref_logp = rollout.ref_logp
        if ref_logp is None and objective['kl_coef']:
            ref_logp = self._reference_log_probs(*tokens)
        in_loss = self.train_options['kl_in'] == 'loss'
        total, scalars = policy_loss(
            logp, logp.detach() if rollout.old_logp is None else rollout.old_logp.to(logp),
            rollout.advantages.flatten().to(logp), self.loss_mask(rollout).to(logp.device),
            ref_logp=None if ref_logp is None else ref_logp.to(logp), entropy=entropy,
            max_tokens=self.sampling['max_new_tokens'], scale=rollout.loss_scale,
            sampling_logp=(None if rollout.sampling_logp is None else
                           rollout.sampling_logp.to(logp)),
            **{**objective, 'kl_coef': objective['kl_coef'] if in_loss else 0.0})
        # mmengine adds up everything whose name has 'loss' in it: only `loss` may.
        return {'loss': total, **{name.removesuffix('_loss'): v for name, v in scalars.items()}}

    def supervised_loss(self, inputs: Inputs,
                        data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """The cross entropy of given responses, see :meth:`VLMReasoningHead.supervised_loss`.

        Args:
            inputs: ``prompt_image``: B uint8 tensors (3, h, w), RGB.
            data_samples: B data samples with ``question`` and ``response``.

        Returns:
            ``loss`` and scalars for the log: ``perplexity``, ``response_tokens``.

        Raises:
            TypeError: A sample has no ``response``.
            ValueError: Its coordinates are not those that the policy writes.
        """
        if not data_samples or not all('response' in sample for sample in data_samples):
            raise TypeError(
                f'`inputs` should be a RolloutBatch, as `GRPOTrainLoop` hands it over, or data '
                f'samples should have a `response`, but got {type(inputs).__name__} and samples '
                f"without it; set `train_cfg=dict(type='GRPOTrainLoop', ...)`, or, to learn given "
                f"responses, put `dict(type='ComposeResponse')` before `PackReasoningInputs`")
        own = self.policy.coordinates
        for sample in data_samples:
            if (given := sample.get('response_coordinates', own)) != own:
                raise ValueError(f'`coordinates` of `ComposeResponse` should be {own!r}, which the '
                                 f'policy writes, but got {given!r}; set them so')
        prompts = self._encode(inputs, data_samples)
        with shared_message(), naming_samples(data_samples):
            loss, scalars = self.policy.supervised_loss(prompts,
                                                        [s.response for s in data_samples])
        return {'loss': loss, **scalars}

    def loss_mask(self, rollout: RolloutBatch) -> Tensor:
        """(N, R) bool: the tokens that the loss counts."""
        if self.train_options['truncated'] == 'count':
            return rollout.response_mask
        return rollout.response_mask & ~rollout.truncated.to(rollout.response_mask.device)[:, None]

    @torch.no_grad()
    def log_probs(self, rollout: RolloutBatch) -> tuple[Tensor, Tensor | None]:
        """(N, R) log-probabilities of a rollout under the present policy, and those under the
        reference where ``kl_coef`` asks for one, else None."""
        tokens = self._tokens_of(rollout)
        return (self.policy.log_probs(*tokens)[0],
                self._reference_log_probs(*tokens) if self.objective['kl_coef'] else None)

    def _tokens_of(self, rollout: RolloutBatch) -> tuple[Any, Tensor, Tensor, float]:
        """Prompts, responses, their mask and the temperature, for a head's ``log_probs``."""
        prompts = rollout.prompts or self._encode(dict(prompt_image=rollout.prompt_images),
                                                  rollout.data_samples)
        return (prompts, rollout.response_ids, rollout.response_mask,
                self.sampling['temperature'])

    @torch.no_grad()
    def _reference_log_probs(self, *tokens: Any) -> Tensor:
        """(N, R) log-probabilities under the reference policy; arguments as of ``log_probs``."""
        if self.policy.has_adapter:
            with self.policy.adapter_off():
                return self.policy.log_probs(*tokens)[0]
        if self.reference is None:
            raise RuntimeError('`build_reference()` should be called before training with '
                               '`kl_coef` > 0')
        return self.reference.log_probs(*tokens)[0]

    @torch.no_grad()
    def predict(self, inputs: Inputs, data_samples: list[DetDataSample],
                **kwargs: Any) -> list[DetDataSample]:
        """Answer each question and draw the mask.

        Args:
            inputs: ``image`` (B uint8 tensors (3, H, W), RGB, original frame) and
                ``prompt_image`` (B uint8 tensors (3, h, w), RGB).
            data_samples: B data samples with ``question``. Those with ``stored_answer``, a pair
                of ``response`` and ``truncated``, are taken to have answered that.

        Returns:
            The data samples with ``pred_instances`` (``bboxes`` (n, 4) and ``points`` (n, P, 2) in
            the original frame, ``masks`` bool (n, H, W), ``scores`` (n,), ``labels`` (n,)) of the
            n objects of the answer, none when the response cannot be used; and ``reasoning``: a
            dict of ``response``, ``parsed``, ``think_tokens``, ``caption_tokens``, ``truncated``
            and ``seconds`` (``answer``, of a batch its share; ``draw``, on a GPU without what it
            still has to do).
        """
        started = time.perf_counter()
        answers = self._answers(inputs, data_samples)
        seconds = (time.perf_counter() - started) / max(len(answers), 1)
        for row, (sample, (text, truncated)) in enumerate(zip(data_samples, answers, strict=True)):
            parsed = self._parse(text, inputs['prompt_image'][row])
            usable = () if isinstance(parsed, ParseFailure) else parsed.objects
            started = time.perf_counter()
            sample.pred_instances = self.draw(usable, inputs['image'][row],
                                              tuple(inputs['prompt_image'][row].shape[-2:]))
            sample.reasoning = dict(
                response=text, parsed=parsed, think_tokens=self.policy.count_tokens(parsed.think),
                caption_tokens=self.policy.count_tokens(parsed.caption), truncated=truncated,
                seconds=dict(answer=seconds, draw=time.perf_counter() - started))
        return data_samples

    def _answers(self, inputs: Inputs,
                 data_samples: list[DetDataSample]) -> list[tuple[str, bool]]:
        """The response to each question, and whether the length limit ended it. A response is
        sampled by the item's number in the data set, where it has one, so that it does not depend
        on the batch."""
        answers = [sample.get('stored_answer') for sample in data_samples]
        missing = [row for row, answer in enumerate(answers) if answer is None]
        if missing:
            samples = [data_samples[row] for row in missing]
            numbers = [sample.get('sample_idx') for sample in samples]
            rollout = self._sample(
                {name: [values[row] for row in missing] for name, values in inputs.items()},
                samples, **self.test_cfg, prompt_numbers=None if None in numbers else numbers)
            for row, text, truncated in zip(missing, rollout.texts, rollout.truncated.tolist(),
                                            strict=True):
                answers[row] = (text, truncated)
        return answers

    def draw(self, objects: Sequence[AnsweredObject], image: Tensor,
             prompt_shape: tuple[int, int]) -> InstanceData:
        """An instance for each of n objects in one image.

        Args:
            objects: Boxes and points in pixels of the prompt image, as many points of each.
            image: uint8 (3, H, W), RGB, the original frame.
            prompt_shape: (h, w) of the prompt image.

        Returns:
            ``bboxes``, ``points``, ``masks``, ``scores``, ``labels`` as in :meth:`predict`.
        """
        if self.decoder is None:
            raise RuntimeError('`decoder` should be configured to draw masks, but got None')
        shape = tuple(image.shape[-2:])
        boxes = torch.tensor([item.box for item in objects]).reshape(-1, 4)
        points = torch.tensor([item.points for item in objects]).reshape(
            len(objects), len(objects[0].points) if objects else 1, 2)
        boxes = scale_boxes(boxes, prompt_shape, shape)
        points = scale_points(points, prompt_shape, shape)
        masks, scores = self.decoder(image.permute(1, 2, 0).cpu().numpy(), boxes, points)
        return InstanceData(bboxes=boxes, points=points, masks=masks, scores=scores,
                            labels=torch.zeros(len(boxes), dtype=torch.long))

    def _forward(self, inputs: Inputs, data_samples: list[DetDataSample]) -> list[str]:
        """mmdet's mode ``tensor``: the responses as text."""
        return self._sample(inputs, data_samples, **self.test_cfg).texts

    def extract_feat(self, inputs: Inputs) -> Any:
        """The vision tower's features of the prompt images, one (tokens, channels) per image."""
        prompts = self.policy.encode_prompts(inputs['prompt_image'],
                                             [''] * len(inputs['prompt_image']))
        return [prompt.vision[0] for prompt in self.policy.see(prompts)]


def split_train_cfg(config: dict) -> tuple[dict, dict, dict]:
    """The sampling's part of ``train_cfg``, the objective's and the rest, with the published
    defaults."""
    sampling = dict(group_size=8, temperature=1.0, max_new_tokens=1300, top_p=1.0, top_k=0)
    objective = dict(clip_ratio=0.2, clip_ratio_high=None, ratio_level='token', surrogate='clip',
                     kl_coef=5e-3, kl_estimator='k3', entropy_coef=1e-3,
                     aggregation='seq_mean_token_mean', importance_cap=None)
    options = dict(kl_in='loss', truncated='count')
    unknown = config.keys() - (sampling | objective | options).keys()
    if unknown:
        raise ValueError(f'`train_cfg` of the model should have keys among '
                         f'{sorted(sampling | objective | options)}, but got {sorted(unknown)}')
    if not config.get('temperature', 1.0) > 0:
        raise ValueError(f'`train_cfg.temperature` should be positive, but got '
                         f'{config["temperature"]}')
    check_sampling(config, 'train_cfg')
    if config.get('kl_coef', 0.0) < 0:
        raise ValueError(f'`train_cfg.kl_coef` should be at least 0, but got {config["kl_coef"]}')
    for name, known in (('kl_in', ('loss', 'reward')), ('truncated', ('count', 'mask'))):
        if config.get(name, options[name]) not in known:
            raise ValueError(f'`train_cfg.{name}` should be one of {known}, but got '
                             f'{config[name]!r}')
    sampling, objective, options = ({k: config.get(k, v) for k, v in part.items()}
                                    for part in (sampling, objective, options))
    check_objective(max_tokens=sampling['max_new_tokens'],
                    **{k: v for k, v in objective.items() if not k.endswith('_coef')})
    if objective['importance_cap'] and (sampling['top_p'] < 1 or sampling['top_k'] > 0):
        raise ValueError(f'`train_cfg.importance_cap` should be None where `top_p` or `top_k` '
                         f'narrow the choice (the ratio compares whole distributions), but got '
                         f'{objective["importance_cap"]}')
    return sampling, objective, options
