# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A mask decoder that picks the best matching instance of an mmdet segmentor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.nn import Module

from mmdpad.models.weights import load_strictly, read_checkpoint
from mmdpad.registry import MODELS
from mmdpad.utils import open_config

from .instances import Instances, match_instances
from .prompted_decoder import PromptedDecoder

_HINT = ('Download the checkpoint that belongs to `config` (mmdet lists them in its model zoo) '
         'and set `checkpoint` to it; if you trained it yourself and it cannot be read, save only '
         'its state dict: torch.save(torch.load(FILE, weights_only=False)["state_dict"], '
         'NEW_FILE)')


@MODELS.register_module()
class DetectorDecoder(PromptedDecoder):
    """A frozen mmdet instance segmentor, whose instances are matched to boxes and points.

    It runs once on each image, without knowing the boxes and points. Each requested object then
    gets the instance with the highest match, in [-1, 2]::

        match = IoU(requested box, tight box of the instance's mask)
                + share of the requested points that lie in the instance's mask
                - share of the negative points that do

    (:func:`mmdpad.geometry.boxes.box_iou`; a point lies in its nearest pixel). Ties go to the more
    confident instance; classes are ignored. Two objects may get the same instance. If no instance
    has a match above 0, the mask is empty.

    Args:
        config: The detector's config: a path, a name such as
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', or a complete config as a dict. It
            must have ``model`` and ``test_dataloader``, whose pipeline prepares the images.
        checkpoint: Weights of that detector, as mmengine saves or mmdet publishes them. None is an
            error unless ``allow_random`` is set.
        cfg_options: Config overrides, as in mmdet: ``{'model.test_cfg.rcnn.score_thr': 0.1}``.
        score_thr: Instances with a lower score are ignored, in [0, 1].
        allow_random: Accept ``checkpoint=None`` and use random weights; for smoke tests only.
        cache_size: Number of images whose instances are cached, in main memory, at most n x H x W
            / 8 bytes each (2 MB for 50 instances of a 640 x 480 image); 0 disables the cache.
        max_hole_area, max_sprinkle_area: See :class:`PromptedDecoder`.

    Raises:
        ValueError: ``config`` is not a detector's, there is no checkpoint, it does not fit the
            model, or an area is negative.
        FileNotFoundError: The config or the checkpoint does not exist.
    """

    takes_negative_points = True

    def __init__(self,
                 config: str | dict,
                 checkpoint: str | None = None,
                 cfg_options: dict | None = None,
                 score_thr: float = 0.05,
                 allow_random: bool = False,
                 cache_size: int = 16,
                 max_hole_area: int = 0,
                 max_sprinkle_area: int = 0) -> None:
        super().__init__(cache_size, max_hole_area, max_sprinkle_area)
        state = read_checkpoint(checkpoint, _HINT, allow_random)
        self.score_thr = score_thr
        self.variant = self.describe(*[Path(config).stem] if isinstance(config, str) else [])
        self.detector, self._pipeline = _build(_read_config(config, cfg_options))
        if state is not None:
            assert checkpoint is not None
            # Older checkpoints hold the mean and standard deviation, which the config also has.
            state = {name: value for name, value in state.items()
                     if not name.startswith('data_preprocessor.')}
            load_strictly(self.detector, state, checkpoint, _HINT)
        self.freeze()

    def segment(self, image: np.ndarray, boxes: np.ndarray, points: np.ndarray,
                negatives: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """See :class:`PromptedDecoder`. Both ends of a box are inclusive, and the scores are the
        detector's confidence in the chosen instance, in [0, 1] (0 with an empty mask).

        Raises:
            TypeError: The detector predicts no masks.
        """
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool, device=self.device)
        scores = torch.zeros(len(boxes), device=self.device)
        (found, ) = self.feature_cache.lookup([image], self._detect)
        for row, match in enumerate(match_instances(
                found, boxes, points, () if negatives is None else negatives)):
            if (match > 0).any():
                best = match.argmax()  # the first of equal ones, which is the most confident
                masks[row], scores[row] = found.masks[best], found.scores[best]
        return masks, scores

    def _detect(self, images: list[np.ndarray]) -> list[Instances]:
        """Detect the instances in each image (uint8 (H, W, 3), RGB)."""
        from mmdet.apis import inference_detector  # takes half a second; only this decoder needs it
        self.detector.to(self.device)  # mmdet's preprocessor does not notice a parent's move
        return [self._instances(inference_detector(
            self.detector, np.ascontiguousarray(image[..., ::-1]),  # mmdet takes arrays as BGR
            test_pipeline=self._pipeline).get('pred_instances', {})) for image in images]

    def _instances(self, predicted: dict) -> Instances:
        """Keep the instances above the threshold, the most confident first."""
        if not isinstance(predicted.get('masks'), Tensor):
            raise TypeError(f'`config` should be of an instance segmentor, but a '
                            f'{type(self.detector).__name__} predicts no masks, only '
                            f'{sorted(predicted.keys())}; use one that does (Mask R-CNN, '
                            f'Mask2Former, RTMDet-Ins, ...), or BoxDecoder to use boxes only')
        kept = predicted['scores'] >= self.score_thr
        return Instances.of(predicted['masks'].bool()[kept], predicted['scores'][kept])


def _read_config(config: str | dict, options: dict | None) -> Config:
    if isinstance(config, str):
        whole: Config = get_config(config) if '::' in config else open_config(config)
    else:
        whole = Config(dict(config))
    whole.merge_from_dict(options or {})
    missing = [name for name in ('model', 'test_dataloader') if not whole.get(name)]
    if missing:
        raise ValueError(f'`config` should be the complete config of a detector, but has no '
                         f'{" and no ".join(f"`{name}`" for name in missing)}; name an mmdet '
                         f'config (`mmdet::...`) or your own file')
    return whole


def _build(config: Config) -> tuple[Module, Compose]:
    """Build the detector and its test pipeline for images in memory, in the config's own scope,
    regardless of the current scope."""
    from mmdet.utils import get_test_pipeline_cfg  # imports pyplot
    pipeline = get_test_pipeline_cfg(config)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        detector = revert_sync_batchnorm(MODELS.build(config.model))
        detector.cfg = config  # inference_detector reads it
        return detector, Compose([dict(type='mmdet.LoadImageFromNDArray'), *pipeline[1:]])
