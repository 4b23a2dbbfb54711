# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Mask decoders for SAM 2, SAM 3 and SAM-HQ of transformers."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Sam2Model,
    Sam2Processor,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    SamHQModel,
    SamHQProcessor,
)

from mmdpad.models.sources import check_files, find_model, read_config
from mmdpad.models.weights import from_folder, load_pretrained
from mmdpad.registry import MODELS

from .prompted_decoder import PromptedDecoder, best_of, join_points

_DTYPES = ('float32', 'bfloat16')


class EncodedImage(NamedTuple):
    """An encoded image.

    Attributes:
        embeddings: Arguments of the model's ``forward`` that replace pixels, float32.
        shape: (height, width) of the resized image, without padding.
    """

    embeddings: dict[str, Any]
    shape: tuple[int, int]


def check_dtype(dtype: str) -> None:
    """Raise ValueError unless images can be encoded in this dtype."""
    if dtype not in _DTYPES:
        raise ValueError(f'`dtype` should be one of {_DTYPES}, but got {dtype!r}')


class HFSAMDecoder(PromptedDecoder):
    """A frozen model of the SAM family, prompted by one box and some points per object.

    Of the three masks that the model proposes, it returns the one with the highest predicted IoU.
    Embeddings of recent images are cached, so several questions about one image encode it once.
    Images are encoded one by one: in a batch, the low bits of an image's mask would depend on the
    other images.

    A subclass names the classes of transformers and, where its model differs, overrides
    :meth:`embed`, :meth:`place` and :meth:`finish`.

    Args:
        pretrained: A folder in Hugging Face format (config.json, weights and the files of the
            processor), or a hub name.
        dtype: 'bfloat16' encodes images under autocast. Box and point prompts, masks and weights
            are always float32 (a coordinate in bfloat16 is off by several pixels).
        cache_size: Number of images whose embeddings are cached, on the decoder's device; 0
            disables the cache.
        max_hole_area, max_sprinkle_area: Fill holes and remove separate regions of at most so many
            pixels of the original frame, see :func:`mmdpad.geometry.mask_cleaning.clean_mask`; 0
            leaves masks as they are. (transformers' processors accept arguments of these names
            and ignore them.)

    Raises:
        ValueError: The folder holds another kind of model, the weights do not fit, ``dtype`` is
            unknown, or an area is negative.
        FileNotFoundError: ``pretrained`` looks like a path and is not such a folder.
    """

    model_class: type[PreTrainedModel]
    processor_class: type[ProcessorMixin]
    model_types: tuple[str, ...]  # supported values in config.json
    example: str  # a hub name
    takes_negative_points = True
    reads_text = False  # whether the folder must have a tokenizer

    def __init__(self, pretrained: str, dtype: str = 'float32', cache_size: int = 16,
                 max_hole_area: int = 0, max_sprinkle_area: int = 0) -> None:
        check_dtype(dtype)
        super().__init__(cache_size, max_hole_area, max_sprinkle_area)
        source = self.check_folder(pretrained)
        hint = f'Download the complete folder of a model such as {self.example} again'
        self.processor = from_folder(self.processor_class, source, hint)
        self.sam: Any = self.load(source, hint)
        self.dtype = dtype
        self.variant = self.describe(Path(source).name)
        self.freeze()

    def load(self, source: str, hint: str) -> PreTrainedModel:
        """Load the model with all its weights, see :func:`load_pretrained`."""
        return load_pretrained(self.model_class, source, hint, dtype=torch.float32)

    def segment(self, image: np.ndarray, boxes: np.ndarray, points: np.ndarray,
                negatives: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`PromptedDecoder`. The scores are the model's own IoU estimates, float32."""
        shape = image.shape[:2]
        with self.full_precision():
            seen = self.encode_image(image)
            points, labels = join_points(points, negatives)
            prompts = self.place(boxes, points, shape, seen.shape)
            if points.size:
                prompts['input_labels'] = torch.from_numpy(labels)[None]
            found = self.sam(**self.arguments(seen), multimask_output=True,
                             **{name: value.to(self.device) for name, value in prompts.items()})
        masks, scores = best_of(found.pred_masks[0], found.iou_scores[0])
        return self.finish(masks[:, None], shape, seen.shape)[:, 0], scores

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        """Encode one image, (1, 3, S, S) from the processor, as arguments of the model's
        ``forward``."""
        return dict(image_embeddings=[
            level.float() for level in self.sam.get_image_embeddings(pixels)])

    def arguments(self, seen: EncodedImage) -> dict[str, Any]:
        """Arguments of the model's ``forward`` for an encoded image."""
        return seen.embeddings

    def place(self, boxes: np.ndarray, points: np.ndarray, shape: tuple[int, int],
              seen: tuple[int, int]) -> dict[str, Tensor]:
        """Convert boxes and points to the frame of the resized image.

        Args:
            boxes: (N, 4), XYXY in pixels of the original image.
            points: (N, P, 2), (x, y) in pixels of the original image.
            shape: (H, W) of the original image.
            seen: (height, width) of the resized image, without padding.

        Returns:
            ``input_boxes`` (1, N, 4) and, if there are any points, ``input_points`` (1, N, P, 2).
        """
        prompts = dict(input_boxes=[boxes.tolist()])
        if points.size:
            prompts['input_points'] = [points.tolist()]
        placed = self.processor(**prompts, original_sizes=[shape], return_tensors='pt')
        return {name: placed[name] for name in prompts}

    def finish(self, masks: Tensor, shape: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        """Convert the model's masks (N, 1, h, w) to bool (N, 1, H, W) in the original frame; the
        shapes are as in :meth:`place`."""
        return self.processor.post_process_masks([masks], [shape])[0]

    def encode_image(self, image: np.ndarray) -> EncodedImage:
        """Encode an image (uint8 (H, W, 3), RGB), or take it from the cache."""
        (seen, ) = self.feature_cache.lookup([image], self._encode_images)
        return seen

    def autocast(self) -> AbstractContextManager:
        """The precision in which images are encoded."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == 'bfloat16')

    def full_precision(self) -> AbstractContextManager:
        """The precision of everything else, also in a loop with ``fp16``."""
        return torch.autocast(self.device.type, enabled=False)

    def _encode_images(self, images: list[np.ndarray]) -> list[EncodedImage]:
        """Encode each image (uint8 (H, W, 3), RGB), one by one."""
        seen = []
        for image in images:
            inputs = self.processor(images=image, return_tensors='pt',
                                    input_data_format='channels_last')
            pixels = inputs['pixel_values'].to(self.device)
            shape = inputs.get('reshaped_input_sizes', [pixels.shape[-2:]])[0]
            with self.autocast():
                embeddings = self.embed(pixels)
            height, width = map(int, shape)
            seen.append(EncodedImage(embeddings, (height, width)))
        return seen

    @classmethod
    def check_folder(cls, pretrained: str) -> str:
        """Check a folder or hub name before weights are read, and return it for transformers.

        Raises:
            FileNotFoundError, ValueError: As for the class.
        """
        source, folder = find_model('model.decoder.pretrained', pretrained, cls.example)
        found = read_config(source).get('model_type')
        if found not in cls.model_types:
            raise ValueError(
                f'`model.decoder.pretrained` of {cls.__name__} should be a model of type '
                f'{" or ".join(cls.model_types)}, such as {cls.example}, but {source!r} is of '
                f'type {found!r}; name such a folder, or use the decoder for that type')
        check_files(source, folder, tokenizer=cls.reads_text)
        return source


@MODELS.register_module()
class SAM2Decoder(HFSAMDecoder):
    """A frozen SAM 2 or 2.1, Hiera tiny to large. See :class:`HFSAMDecoder` for the arguments.

    The published folders (``facebook/sam2-hiera-large`` is the paper's) hold the video model. Its
    memory weights, which single images do not need, are not loaded: ``memory_*``,
    ``mask_downsample*``, ``object_pointer_proj*``,
    ``temporal_positional_encoding_projection_layer*``, ``no_memory_positional_encoding``,
    ``no_object_pointer`` and ``occlusion_spatial_embedding_parameter``. Any other weight that the
    image model lacks is an error.

    The embeddings of an image take 17 MB.
    """

    model_class = Sam2Model
    processor_class = Sam2Processor
    model_types = ('sam2', 'sam2_video')
    example = 'facebook/sam2-hiera-large'


@MODELS.register_module()
class SAM3Decoder(HFSAMDecoder):
    """SAM 3's frozen tracker, the part that takes boxes and points, on single images.

    See :class:`HFSAMDecoder` for the arguments. The published folder, ``facebook/sam3``, holds the
    complete model. The tracker shares the detector's image encoder and has its own neck. The rest
    of the detector (``detector_model.*``) and the memory weights, which have the names that
    :class:`SAM2Decoder` lists, are not loaded. Any other weight that the tracker lacks is an error.

    transformers' ``Sam3TrackerModel`` adds the embedding for "no memory" to a level of the neck
    that it does not use. Here that level is removed, so that the embedding reaches the level that
    masks are predicted from, as in Meta's predictor and in ``Sam3TrackerVideoModel``.

    The embeddings of an image take 21 MB.
    """

    model_class = Sam3TrackerModel
    processor_class = Sam3TrackerProcessor
    model_types: tuple[str, ...] = ('sam3_tracker', 'sam3_video')
    example = 'facebook/sam3'

    def load(self, source: str, hint: str) -> PreTrainedModel:
        model: Any = super().load(source, hint)
        del model.vision_encoder.neck.fpn_layers[len(model.backbone_feature_sizes):]
        return model


@MODELS.register_module()
class SAMHQDecoder(HFSAMDecoder):
    """A frozen SAM-HQ (arXiv 2306.01567), ViT-B to ViT-H. See :class:`HFSAMDecoder` for the
    arguments.

    Its mask logits are the sum of the best proposal's logits and those of the high-quality token,
    which is transformers' default; the authors' predictor does the same.

    The embeddings of an image take 17 MB (ViT-B) to 25 MB (ViT-H).
    """

    model_class = SamHQModel
    processor_class = SamHQProcessor
    model_types = ('sam_hq', )
    example = 'syscv-community/sam-hq-vit-huge'

    def _encode_images(self, images: list[np.ndarray]) -> list[EncodedImage]:
        side = self.processor.image_processor.size['longest_edge']
        return super()._encode_images([_thickened(image, side) for image in images])

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        image, layers = self.sam.get_image_embeddings(pixels)
        # The mask decoder reads only the first of the layers with global attention.
        return dict(image_embeddings=image.float(), intermediate_embeddings=[layers[0].float()])

    def place(self, boxes: np.ndarray, points: np.ndarray, shape: tuple[int, int],
              seen: tuple[int, int]) -> dict[str, Tensor]:
        # The same as its processor, which needs an image for this: in float64.
        scale = np.array([seen[1] / shape[1], seen[0] / shape[0]])
        boxes = boxes.astype(np.float32).reshape(-1, 2, 2) * scale
        return dict(input_boxes=torch.from_numpy(boxes.reshape(1, -1, 4)),
                    input_points=torch.from_numpy(points * scale)[None])

    def finish(self, masks: Tensor, shape: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        return self.processor.post_process_masks([masks], [shape], [seen])[0]


def _thickened(image: np.ndarray, side: int) -> np.ndarray:
    """Repeat the rows or columns of an image (H, W, 3) that is so long that, resized to a longest
    side of ``side`` pixels, its short side would be rounded to 0."""
    longest = max(image.shape[:2])
    for axis, length in enumerate(image.shape[:2]):
        if int(length * (side / longest) + 0.5) < 1:
            image = image.repeat(math.ceil(longest / (side * length)), axis)
    return image
