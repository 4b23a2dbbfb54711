# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The data and the setup of a training step: the numbers behind every estimate.

Notation: B prompts, G responses to each, P prompt tokens (image included), R response tokens. In a
conversation, R counts what the policy writes in all its turns, Q the tokens of the replies between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmdpad.models.heads.token_log_probs import MAX_LOGITS

from .fake_policy import ImageInputs


@dataclass(frozen=True)
class Workload:
    """B prompts with one image each, and G responses to each, all of one length.

    Attributes:
        prompts: B.
        group_size: G.
        prompt_tokens: P, image tokens included.
        response_tokens: R.
        image: What the vision tower gets of an image.
        shared: Whether a prompt is computed once per group, instead of once per response.
        images_once: The same for its image.
        longest: Length of the longest response, to which attention pads the others, if R is the
            mean of different lengths; 0 if all have R tokens.
        reply_tokens: Q of a response, image tokens included; their log-probabilities are not
            computed.
        reply_images: Images in the replies of a response, on average.
        reply_image: What the vision tower gets of one of these; None without any.
        turns: How many turns a response has, all of the same length.
    """

    prompts: int
    group_size: int
    prompt_tokens: int
    response_tokens: int
    image: ImageInputs
    shared: bool = True
    images_once: bool = True
    longest: int = 0
    reply_tokens: int = 0
    reply_images: float = 0.0
    reply_image: ImageInputs | None = None
    turns: int = 1

    @property
    def responses(self) -> int:
        """N = B * G."""
        return self.prompts * self.group_size

    @property
    def generated(self) -> int:
        """Tokens of all responses, without replies."""
        return self.responses * self.response_tokens

    @property
    def length(self) -> int:
        """R + Q, the tokens after a prompt."""
        return self.response_tokens + self.reply_tokens

    @property
    def padded(self) -> int:
        """Length of a response within attention, its replies included."""
        return max(self.length, self.longest)

    @property
    def prefixes(self) -> int:
        """How many prompts are computed."""
        return self.prompts if self.shared else self.responses

    @property
    def images(self) -> int:
        """How many images of prompts the vision tower encodes."""
        return self.prompts if self.images_once else self.responses

    @property
    def all_images(self) -> dict[ImageInputs, float]:
        """How many images of each kind the vision tower encodes, those of replies included."""
        found: dict[ImageInputs, float] = {self.image: self.images}
        for image, count in self.all_reply_images.items():
            found[image] = found.get(image, 0) + count
        return found

    @property
    def all_reply_images(self) -> dict[ImageInputs, float]:
        """Those of replies."""
        if self.reply_image is None:
            return {}
        return {self.reply_image: self.responses * self.reply_images}

    def replicated(self) -> Workload:
        """The same workload with prompt and image computed once per response."""
        return replace(self, shared=False, images_once=False)

    @property
    def tokens(self) -> int:
        """Tokens that the language model processes."""
        return self.prefixes * self.prompt_tokens + self.responses * self.length

    @property
    def prefix_pairs(self) -> int:
        """Pairs (query, key) of causal attention within the prompts: P (P + 1) / 2 each."""
        return self.prefixes * self.prompt_tokens * (self.prompt_tokens + 1) // 2

    @property
    def response_pairs(self) -> int:
        """Pairs (query, key) of the tokens after prompts: token i of R + Q attends to P + i."""
        return self.responses * (self.length * self.prompt_tokens
                                 + self.length * (self.length + 1) // 2)

    def turn(self, number: int) -> Workload:
        """One turn of all responses, from 1 on. A later one has as many prompts of their own, each
        with what was written and replied before, its images among those of replies."""
        before, replies = number - 1, max(1, self.turns - 1)
        written = self.response_tokens // self.turns
        turn = replace(self, response_tokens=written, reply_tokens=0, reply_images=0.0, turns=1)
        if not before:
            return turn
        return replace(
            turn, prompts=self.responses, group_size=1, longest=0,
            prompt_tokens=self.prompt_tokens + before * (written + self.reply_tokens // replies),
            reply_images=before * self.reply_images / replies)


@dataclass(frozen=True)
class Kept:
    """Layers that are not recomputed, or not entirely, where activations are recomputed. These are
    the last ones, whose activations are the first to be freed.

    Attributes:
        products: Layers of the language model of which at least the outputs of matrix products and
            attention are kept; the operations between them, which take little time, are repeated.
        text: How many of these keep everything.
        vision: Blocks of the vision tower that keep everything.
    """

    products: int = 0
    text: int = 0
    vision: int = 0


@dataclass(frozen=True)
class Setup:
    """How a step is computed.

    Attributes:
        weight_bytes: Bytes of a weight: 4 for float32, 2 for bfloat16.
        amp: Whether linear maps and attention compute in bfloat16 by autocast.
        lora_rank: Rank of the adapter (float32); 0 to train the weights.
        quantized_bytes: Bytes of a quantized weight, including its share of the scales; applies to
            the language model's linear maps. 0 without quantization.
        freeze_vision: As in :class:`mmdpad.models.VLMReasoningHead`.
        checkpointing: Whether layers are recomputed in the backward pass.
        kept: Which ones are not, with ``checkpointing``.
        attention: 'flash' for any kernel that keeps no probabilities (SDPA, flash attention), or
            'eager'.
        reference: Whether a reference policy is used (``kl_coef`` > 0).
        rollout: 'none', 'replicated' (each response computes its own prompt, though not its image)
            or 'shared'.
        keeps_turns: Whether later turns of conversations continue from the cache of those before.
        kept_log_probs: Whether log-probabilities of the sampling policy are computed before the
            updates.
        updates: Updates per rollout.
        groups: Groups in one forward and backward pass.
        accumulates: Whether gradients outlive a pass (several passes per optimizer step).
        entropy: 'grad', 'no_grad' or None: as in ``token_log_probs``.
        state: Numbers of optimizer state per trained weight, in the type of the weight.
        step: Temporary numbers that an optimizer step needs per trained weight.
        offload: Whether float32 master weights and optimizer state are in CPU memory;
            gradients are then float32.
        bucket_views: Whether gradients are views of the buckets that data parallel exchanges
            (``gradient_as_bucket_view`` of the wrapper), instead of a second copy.
        max_logits: As in ``token_log_probs``.
        on_cpu: Whether the device is a CPU, whose kernels need no copies of a prompt's keys and
            values.
        shards: Processes that share weights, gradients and optimizer state (``FSDP2Strategy``).
    """

    weight_bytes: int = 4
    amp: bool = False
    lora_rank: int = 0
    quantized_bytes: float = 0.0
    freeze_vision: bool = False
    checkpointing: bool = False
    kept: Kept = Kept()
    attention: str = 'flash'
    reference: bool = True
    rollout: str = 'shared'
    keeps_turns: bool = False
    kept_log_probs: bool = False
    updates: int = 1
    groups: int = 1
    accumulates: bool = False
    entropy: str | None = 'grad'
    state: float = 2.0
    step: float = 1.0
    offload: bool = False
    bucket_views: bool = False
    max_logits: int = MAX_LOGITS
    on_cpu: bool = False
    shards: int = 1

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number in the output of a linear map."""
        return 2 if self.amp else self.weight_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight; an adapter is float32."""
        return 4 if self.lora_rank else self.weight_bytes

    @property
    def vision_is_fixed(self) -> bool:
        """Whether the vision tower is not trained."""
        return self.freeze_vision or self.lora_rank > 0

    @property
    def rollout_encodes_once(self) -> bool:
        """Whether the turns of a rollout, and the passes after it, share what the vision tower made
        of an image; transformers' own generation encodes all images of a prompt."""
        return self.vision_is_fixed and self.rollout == 'shared'


def groups_in_pass(budget: int | None, prompts: int, group_tokens: int) -> int:
    """How many groups the loop passes to the policy at once, at least one.

    Args:
        budget: The loop's ``tokens_per_micro_batch``; None for all groups.
        prompts: Prompts in an optimizer step.
        group_tokens: Tokens of one group.
    """
    return min(prompts, max(1, budget // group_tokens)) if budget else prompts
