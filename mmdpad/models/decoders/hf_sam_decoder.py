# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A box and points become a mask, by SAM 2, SAM 3 or SAM-HQ of transformers."""

from __future__ import annotations

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

from .prompted_decoder import PromptedDecoder, best_of

_DTYPES = ('float32', 'bfloat16')


class EncodedImage(NamedTuple):
    """An image as the model has seen it.

    Attributes:
        embeddings: Arguments of the model's ``forward`` in place of pixels, float32.
        shape: (height, width) of the resized image, without padding.
    """

    embeddings: dict[str, Any]
    shape: tuple[int, int]


def check_image_dtype(dtype: str) -> None:
    """Raises ValueError unless images can be encoded in this type."""
    if dtype not in _DTYPES:
        raise ValueError(f'`dtype` should be one of {_DTYPES}, but got {dtype!r}')


class HFSAMDecoder(PromptedDecoder):
    """A frozen model of the SAM family, prompted by one box and some positive points per object.

    Of the three masks that the model proposes, the one with the highest predicted IoU is taken.
    The embeddings of the last images are kept, so several questions about one image encode it
    once. Images are encoded one by one: in a batch, low bits of an image's mask would hang on the
    images beside it.

    A subclass names the classes of transformers and, where its model differs, overrides
    :meth:`embed`, :meth:`place` and :meth:`finish`.

    Args:
        pretrained: A folder in Hugging Face format (config.json, weights and the files of the
            processor), or a hub name.
        dtype: 'bfloat16' encodes images under autocast; prompts, masks and weights are float32 in
            any case (a coordinate in bfloat16 is off by some pixels).
        cache_size: Images whose embeddings are kept, on the decoder's device; 0 keeps none.

    Raises:
        ValueError: Another kind of model, weights that do not fit, or an unknown ``dtype``.
        FileNotFoundError: ``pretrained`` looks like a path and is no such folder.
    """

    model_class: type[PreTrainedModel]
    processor_class: type[ProcessorMixin]
    model_types: tuple[str, ...]  # in config.json, of the folders that hold such a model
    example: str  # a hub name

    def __init__(self, pretrained: str, dtype: str = 'float32', cache_size: int = 16) -> None:
        super().__init__(cache_size)
        check_image_dtype(dtype)
        source = self.check_folder(pretrained)
        hint = f'Download the whole folder of a model such as {self.example} again'
        self.processor = from_folder(self.processor_class, source, hint)
        self.sam: Any = load_pretrained(self.model_class, source, hint, dtype=torch.float32)
        self.dtype = dtype
        self.variant = Path(source).name
        self.freeze()

    def segment(self, image: np.ndarray, boxes: np.ndarray,
                points: np.ndarray) -> tuple[Tensor, Tensor]:
        """See :class:`PromptedDecoder`; the scores are float32, the model's own estimate of the
        IoU."""
        (seen, ) = self.feature_cache.lookup([image], self._encode_images)
        shape = image.shape[:2]
        prompts = self.place(boxes, points, shape, seen.shape)
        found = self.sam(**seen.embeddings, multimask_output=True,
                         **{name: value.to(self.device) for name, value in prompts.items()})
        masks, scores = best_of(found.pred_masks[0], found.iou_scores[0])
        return self.finish(masks[:, None], shape, seen.shape)[:, 0], scores

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        """Arguments of the model's ``forward`` for one image, (1, 3, S, S) as the processor gives
        it."""
        return dict(image_embeddings=[
            level.float() for level in self.sam.get_image_embeddings(pixels)])

    def place(self, boxes: np.ndarray, points: np.ndarray, shape: tuple[int, int],
              seen: tuple[int, int]) -> dict[str, Tensor]:
        """Boxes (N, 4) and points (N, P, 2) in pixels of an image of ``shape`` (H, W) as
        ``input_boxes`` (1, N, 4) and, where there are any, ``input_points`` (1, N, P, 2) in pixels
        of what the model has seen, of the shape ``seen``; without labels points are positive."""
        prompts = dict(input_boxes=[boxes.tolist()])
        if points.size:
            prompts['input_points'] = [points.tolist()]
        placed = self.processor(**prompts, original_sizes=[shape], return_tensors='pt')
        return {name: placed[name] for name in prompts}

    def finish(self, masks: Tensor, shape: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        """Masks (N, 1, h, w) of the model as bool (N, 1, H, W) of an image of ``shape`` (H, W)
        that the model has seen in the shape ``seen``."""
        return self.processor.post_process_masks([masks], [shape])[0]

    def _encode_images(self, images: list[np.ndarray]) -> list[EncodedImage]:
        """Each image (uint8 (H, W, 3), RGB), one by one."""
        seen = []
        for image in images:
            inputs = self.processor(images=image, return_tensors='pt',
                                    input_data_format='channels_last')
            pixels = inputs['pixel_values'].to(self.device)
            shape = inputs.get('reshaped_input_sizes', [pixels.shape[-2:]])[0]
            with torch.autocast(self.device.type, torch.bfloat16,
                                enabled=self.dtype == 'bfloat16'):
                embeddings = self.embed(pixels)
            height, width = map(int, shape)
            seen.append(EncodedImage(embeddings, (height, width)))
        return seen

    @classmethod
    def check_folder(cls, pretrained: str) -> str:
        """A folder or hub name as transformers takes it, looked at before weights are read.

        Raises:
            FileNotFoundError, ValueError: As for the class.
        """
        source, folder = find_model('model.decoder.pretrained', pretrained, cls.example)
        found = read_config(source).get('model_type')
        if found not in cls.model_types:
            raise ValueError(
                f'`model.decoder.pretrained` of {cls.__name__} should be a model of type '
                f'{" or ".join(cls.model_types)}, such as {cls.example}, but {source!r} is of '
                f'type {found!r}; name such a folder, or take the decoder of that type')
        check_files(source, folder, tokenizer=False)
        return source


@MODELS.register_module()
class SAM2Decoder(HFSAMDecoder):
    """A frozen SAM 2 or 2.1, Hiera tiny to large; arguments as of :class:`HFSAMDecoder`.

    The published folders (``facebook/sam2-hiera-large`` is the paper's) are of the video model.
    Its memory, which single images do not need, is left in the file: the weights named
    ``memory_*``, ``mask_downsample*``, ``object_pointer_proj*``,
    ``temporal_positional_encoding_projection_layer*``, ``no_memory_positional_encoding``,
    ``no_object_pointer`` and ``occlusion_spatial_embedding_parameter``. Anything else that the
    image model lacks is an error.

    The embeddings of an image take 17 MB.
    """

    model_class = Sam2Model
    processor_class = Sam2Processor
    model_types = ('sam2', 'sam2_video')
    example = 'facebook/sam2-hiera-large'


@MODELS.register_module()
class SAM3Decoder(HFSAMDecoder):
    """SAM 3's frozen tracker on single images, its part that takes boxes and points; arguments as
    of :class:`HFSAMDecoder`.

    The published folder, ``facebook/sam3``, holds the whole model. The tracker shares the
    detector's image encoder and has a neck of its own; left in the file are the rest of the
    detector (``detector_model.*``) and the memory, in the names that :class:`SAM2Decoder` lists.
    Anything else that the tracker lacks is an error.

    The embeddings of an image take 21 MB.
    """

    model_class = Sam3TrackerModel
    processor_class = Sam3TrackerProcessor
    model_types = ('sam3_tracker', 'sam3_video')
    example = 'facebook/sam3'


@MODELS.register_module()
class SAMHQDecoder(HFSAMDecoder):
    """A frozen SAM-HQ (arXiv 2306.01567), ViT-B to ViT-H; arguments as of :class:`HFSAMDecoder`.

    Its masks are the sums of the best proposal's logits and those of the high-quality token, which
    is transformers' default; the authors' predictor does the same.

    The embeddings of an image take 17 MB (ViT-B) to 25 MB (ViT-H).
    """

    model_class = SamHQModel
    processor_class = SamHQProcessor
    model_types = ('sam_hq', )
    example = 'syscv-community/sam-hq-vit-huge'

    def embed(self, pixels: Tensor) -> dict[str, Any]:
        image, layers = self.sam.get_image_embeddings(pixels)
        # Of the layers with global attention the mask decoder reads only the first.
        return dict(image_embeddings=image.float(), intermediate_embeddings=[layers[0].float()])

    def place(self, boxes: np.ndarray, points: np.ndarray, shape: tuple[int, int],
              seen: tuple[int, int]) -> dict[str, Tensor]:
        # As its processor does, which cannot be asked without an image: in float64.
        scale = np.array([seen[1] / shape[1], seen[0] / shape[0]])
        boxes = boxes.astype(np.float32).reshape(-1, 2, 2) * scale
        return dict(input_boxes=torch.from_numpy(boxes.reshape(1, -1, 4)),
                    input_points=torch.from_numpy(points * scale)[None])

    def finish(self, masks: Tensor, shape: tuple[int, int], seen: tuple[int, int]) -> Tensor:
        return self.processor.post_process_masks([masks], [shape], [seen])[0]
