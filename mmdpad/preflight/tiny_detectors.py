# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Options that shrink mmdet's detectors to a few thousand weights of the same classes."""

from __future__ import annotations

from typing import Any

from mmengine.model import PretrainedInit

from mmdpad.registry import MODELS, WEIGHT_INITIALIZERS, is_kind, resolve

_WIDTHS = [8, 16, 32, 64]
_RESNET = {'backbone.depth': 18, 'backbone.base_channels': _WIDTHS[0]}
_SWIN = {'backbone.embed_dims': _WIDTHS[0], 'backbone.depths': [1, 1, 1, 1],
         'backbone.num_heads': [1, 1, 2, 2]}
_FEW_BOXES = {'test_cfg.rpn.nms_pre': 20, 'test_cfg.rpn.max_per_img': 20,
              'test_cfg.rcnn.score_thr': 0.0, 'test_cfg.rcnn.max_per_img': 10}
# Class of a part -> options that make it small.
_BACKBONES: dict[str, dict[str, Any]] = dict(ResNet=_RESNET, SwinTransformer=_SWIN)
_DETECTORS: dict[str, dict[str, Any]] = dict(
    MaskRCNN={
        'neck.in_channels': _WIDTHS, 'neck.out_channels': 16,
        'rpn_head.in_channels': 16, 'rpn_head.feat_channels': 16,
        'roi_head.bbox_roi_extractor.out_channels': 16,
        'roi_head.mask_roi_extractor.out_channels': 16,
        'roi_head.bbox_head.in_channels': 16, 'roi_head.bbox_head.fc_out_channels': 32,
        'roi_head.mask_head.in_channels': 16, 'roi_head.mask_head.conv_out_channels': 16,
        **_FEW_BOXES},
    Mask2Former={
        'panoptic_head.in_channels': _WIDTHS, 'panoptic_head.feat_channels': 32,
        'panoptic_head.out_channels': 32, 'panoptic_head.num_queries': 10,
        'panoptic_head.pixel_decoder.encoder.num_layers': 1,
        'panoptic_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg.embed_dims': 32,
        'panoptic_head.pixel_decoder.encoder.layer_cfg.ffn_cfg.embed_dims': 32,
        'panoptic_head.pixel_decoder.encoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
        'panoptic_head.pixel_decoder.positional_encoding.num_feats': 16,
        'panoptic_head.positional_encoding.num_feats': 16,
        'panoptic_head.transformer_decoder.num_layers': 1,
        'panoptic_head.transformer_decoder.layer_cfg.self_attn_cfg.embed_dims': 32,
        'panoptic_head.transformer_decoder.layer_cfg.cross_attn_cfg.embed_dims': 32,
        'panoptic_head.transformer_decoder.layer_cfg.ffn_cfg.embed_dims': 32,
        'panoptic_head.transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
        'train_cfg.num_points': 64, 'test_cfg.max_per_image': 10})
_DETECTORS['FasterRCNN'] = {key: value for key, value in _DETECTORS['MaskRCNN'].items()
                            if '.mask_' not in key}


def shrinking_options(model: dict[str, Any]) -> dict[str, Any] | None:
    """Return dotted options that shrink the config of a detector, or None if its class is unknown.
    :func:`find_pretrained` drops paths to pretrained parts in either case."""
    options = _DETECTORS.get(_class_name(model))
    backbone = _BACKBONES.get(_class_name(model.get('backbone') or {}))
    if options is None or backbone is None:
        return None
    return {**backbone, **options}


def find_pretrained(model: Any, path: str = '') -> dict[str, None]:
    """Return options that drop every ``init_cfg`` that loads pretrained weights."""
    found: dict[str, None] = {}
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'init_cfg' and isinstance(value, dict) and is_kind(
                    value, PretrainedInit, WEIGHT_INITIALIZERS):
                found[f'{path}{key}'] = None
            else:
                found |= find_pretrained(value, f'{path}{key}.')
    return found


def _class_name(part: dict[str, Any]) -> str:
    return getattr(resolve(part, MODELS, 'mmdet'), '__name__', '')
