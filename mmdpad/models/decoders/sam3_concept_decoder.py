# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""SAM 3 as a mask decoder that takes the answer's caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Sam3Model, Sam3Processor
from transformers.models.sam3.modeling_sam3 import (
    Sam3ImageSegmentationOutput,
    Sam3VisionEncoderOutput,
)

from mmdpad.models.non_finite import NonFiniteError, diagnose
from mmdpad.models.retry_on_oom import retry_on_oom
from mmdpad.models.weights import from_folder, load_pretrained
from mmdpad.registry import MODELS

from .concept_decoder import ConceptDecoder
from .hf_sam_decoder import EncodedImage, SAM3Decoder
from .instances import Instances

# Instances whose masks are resized at once.
_AT_ONCE = 16


@MODELS.register_module()
class SAM3ConceptDecoder(ConceptDecoder, SAM3Decoder):
    """SAM 3's frozen detector, which finds all instances of a text, with its tracker to fall back
    on.

    The text is the caption of the answer. :class:`ConceptDecoder` says which instance an object
    gets; an object without one is decoded by the tracker, exactly as by :class:`SAM3Decoder`.
    Instances, masks and scores are those of transformers' ``Sam3Model`` and its
    ``post_process_instance_segmentation``. SAM 3 takes 32 tokens (with the two special ones); of a
    longer text, the rest is ignored.

    The published folder, ``facebook/sam3``, holds both models and the tokenizer. They share the
    image encoder, which runs once per image; its features are cached, 21 MB for an image. The
    memory weights are not loaded, see :class:`SAM3Decoder`. Texts are found one by one: in a batch,
    the low bits of a mask would depend on the other texts, and it takes no less time.

    Args:
        pretrained, dtype, cache_size, max_hole_area, max_sprinkle_area: See :class:`HFSAMDecoder`.
            Texts are read, and instances found, in float32.
        text, score_thr, min_iou: See :class:`ConceptDecoder`.

    Raises:
        ValueError, FileNotFoundError: See :class:`HFSAMDecoder` and :class:`ConceptDecoder`; or
            the folder has no tokenizer.
    """

    model_types = ('sam3_video', )
    reads_text = True
    detector: Any

    def __init__(self, pretrained: str, text: str = 'caption', score_thr: float = 0.3,
                 min_iou: float = 0.1, dtype: str = 'float32', cache_size: int = 16,
                 max_hole_area: int = 0, max_sprinkle_area: int = 0) -> None:
        super().__init__(pretrained, dtype, cache_size, max_hole_area, max_sprinkle_area,
                         text=text, score_thr=score_thr, min_iou=min_iou)
        self.variant += f', {text}, score_thr={score_thr}, min_iou={min_iou}'
        self._held: dict[str, Any] | None = None

    def load(self, source: str, hint: str) -> Any:
        """Load the tracker, the detector and its processor; the image encoder only once."""
        tracker: Any = super().load(source, hint)
        detector: Any = load_pretrained(Sam3Model, source, hint, dtype=torch.float32)
        self.backbone = SharedBackbone(detector.vision_encoder.backbone)
        for model in (detector, tracker):
            model.vision_encoder.backbone = self.backbone
        self.detector = detector
        self.detector_processor = from_folder(Sam3Processor, source, hint)
        return tracker

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        # The size of the pixels is all that the necks need besides the features.
        return dict(size=pixels.new_zeros(()).expand(pixels.shape),
                    features=self.backbone(pixels))

    def arguments(self, seen: EncodedImage) -> dict[str, Any]:
        embed = super().embed

        def run_neck() -> dict[str, Any]:
            with self.autocast(), self.backbone.given(seen.embeddings['features']):
                return embed(seen.embeddings['size'])

        return self._once('tracker', run_neck)

    @contextmanager
    def holding_image(self) -> Iterator[None]:
        """See :class:`ConceptDecoder`. Holds the output of both necks, too (250 MB)."""
        self._held = {}
        try:
            with super().holding_image():
                yield
        finally:
            self._held = None

    def forget_images(self) -> None:
        super().forget_images()
        self._held = None

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` returns for the image; once within :meth:`holding_image`."""
        if self._held is None:
            return compute()
        if name not in self._held:
            self._held[name] = compute()
        return self._held[name]

    def find(self, image: np.ndarray, text: str) -> Instances:
        """See :class:`ConceptDecoder`."""
        found = self._detect(image, text)
        if not (found.pred_logits.isfinite().all() and found.presence_logits.isfinite().all()):
            self.forget_images()  # to encode the image again
            raise NonFiniteError(
                f'The decoder ({type(self).__name__}) should give finite scores, but some for '
                f'{text!r} are not. '
                + diagnose(self, lambda: self._detect(image, text), '`model.decoder.dtype`'))
        parts = retry_on_oom(lambda part: self._instances(found, part, image.shape[:2]),
                             found.pred_logits.shape[1], f'The decoder ({type(self).__name__})',
                             _AT_ONCE)
        return Instances.concatenate(parts)

    def tokenize(self, text: str) -> dict[str, Tensor]:
        """Tokenize a text as ``Sam3Processor`` does, but truncate what is too long."""
        return self.detector_processor.tokenizer(
            text, padding='max_length', truncation=True, return_tensors='pt',
            max_length=self.detector.text_encoder.config.max_position_embeddings).to(self.device)

    def _detect(self, image: np.ndarray, text: str) -> Any:
        """The detector's output for one image and text."""
        with self.full_precision():
            seen = self.encode_image(image).embeddings
            vision = self._once('detector', lambda: self._run_detectors_neck(seen))
            return self.detector(vision_embeds=vision, **self.tokenize(text))

    def _run_detectors_neck(self, seen: dict[str, Any]) -> Sam3VisionEncoderOutput:
        with self.autocast(), self.backbone.given(seen['features']):
            vision = self.detector.get_vision_features(seen['size'])
        return Sam3VisionEncoderOutput(
            fpn_hidden_states=tuple(level.float() for level in vision.fpn_hidden_states),
            fpn_position_encoding=tuple(level.float() for level in vision.fpn_position_encoding))

    def _instances(self, found: Any, part: slice, shape: tuple[int, int]) -> Instances:
        """The instances among a part of the detector's queries."""
        some = Sam3ImageSegmentationOutput(
            pred_masks=found.pred_masks[:, part], pred_boxes=found.pred_boxes[:, part],
            pred_logits=found.pred_logits[:, part], presence_logits=found.presence_logits)
        (kept, ) = self.detector_processor.post_process_instance_segmentation(
            some, threshold=self.score_thr, target_sizes=[shape])
        masks = kept['masks'].bool()
        return Instances.of(masks.reshape(len(masks), *shape), kept['scores'])


class SharedBackbone(nn.Module):
    """The image encoder that SAM 3's detector and tracker share."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._output: Any = None

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Encode images, or return the output that :meth:`given` holds."""
        return self.backbone(pixel_values, **kwargs) if self._output is None else self._output

    @contextmanager
    def given(self, output: Any) -> Iterator[None]:
        """Use the output of an earlier call within the block, whatever the images."""
        self._output = output
        try:
            yield
        finally:
            self._output = None
