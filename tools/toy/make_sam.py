# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains the toy SAM: `python tools/toy/make_sam.py [--out DIR]`.

A segment-anything model for 112-pixel images, trained on scenes of the shapes world with box and
point prompts (with noise on both, since a policy is not exact) and saved as a state dict for
`sam_model_registry['vit_shapes']`.
"""
from __future__ import annotations

import os

from arguments import make_parser, parse_args

PARSER = make_parser(__doc__.splitlines()[0], 'sam')
if __name__ == '__main__':
    parse_args(PARSER)  # --help does not wait for the imports below

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from common import Progress, object_mask, save_report, start
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from mmdpad.geometry.targets import points_from_mask
from mmdpad.toy.sam import build_sam_shapes
from mmdpad.toy.shapes_world import draw_scene, make_scene

SIZE = 112
LOW = 56
STEPS = 1500
BATCH = 16
POOL = 2500
BOX_NOISE = 3.0


def prepare(scene) -> tuple[np.ndarray, list[dict]]:
    """Return the padded image (SIZE, SIZE, 3) uint8, and the prompts and mask of each object.

    Coordinates are pixels of the padded image; `mask` is float32 (LOW, LOW), the share of each
    cell that the object covers; `inside` are pixels (x, y) of the object.
    """
    height, width = scene.image.shape[:2]
    resize = ResizeLongestSide(SIZE)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    small = resize.apply_image(scene.image)
    image[:small.shape[0], :small.shape[1]] = small
    scale = SIZE / max(height, width)
    objects = []
    for item in scene.objects:
        full = object_mask(item.polygon, height, width)
        ys, xs = np.nonzero(full)
        padded = np.zeros((SIZE, SIZE), np.float32)
        padded[:small.shape[0], :small.shape[1]] = cv2.resize(
            full.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        objects.append(dict(
            box=np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float32) * scale,
            points=points_from_mask(full) * scale,
            inside=np.stack([xs, ys], 1)[::7].astype(np.float32) * scale,
            mask=cv2.resize(padded, (LOW, LOW), interpolation=cv2.INTER_AREA)))
    return image, objects


def draw_batch(pool, rng) -> dict[str, Tensor]:
    """Draw images (BATCH, 3, SIZE, SIZE) float, boxes (BATCH, 4), points (BATCH, 2, 2), masks."""
    rows = []
    for chosen in rng.integers(len(pool), size=BATCH):
        image, objects = pool[chosen]
        item = objects[rng.integers(len(objects))]
        box = item['box'] + rng.normal(0, rng.uniform(0, BOX_NOISE), 4)
        points = item['points']
        if rng.random() < 0.5:
            points = item['inside'][rng.integers(len(item['inside']), size=2)]
        rows.append((image, box, points, item['mask']))
    images, boxes, points, masks = (np.stack(column) for column in zip(*rows, strict=True))
    return dict(images=torch.from_numpy(images).permute(0, 3, 1, 2).float(),
                boxes=torch.from_numpy(boxes).float().clamp(0, SIZE),
                points=torch.from_numpy(points).float(), masks=torch.from_numpy(masks))


def predict(sam, batch: dict[str, Tensor], use_box: bool, use_points: bool):
    """Predict mask logits (BATCH, 4, LOW, LOW) and IoU (BATCH, 4).

    Unlike `sam.mask_decoder`, which takes one image with many prompts, this takes many images with
    one prompt each.
    """
    embedding = sam.image_encoder((batch['images'] - sam.pixel_mean) / sam.pixel_std)
    labels = torch.ones(batch['points'].shape[:2])
    sparse, dense = sam.prompt_encoder(
        points=(batch['points'], labels) if use_points else None,
        boxes=batch['boxes'] if use_box else None, masks=None)
    decoder = sam.mask_decoder
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    place = sam.prompt_encoder.get_dense_pe().expand(len(sparse), -1, -1, -1)
    tokens, pixels = decoder.transformer(embedding + dense, place, tokens)
    pixels = decoder.output_upscaling(pixels.transpose(1, 2).reshape(embedding.shape))
    kernels = torch.stack([network(tokens[:, 1 + i]) for i, network in
                           enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    return (torch.einsum('bnc,bchw->bnhw', kernels, pixels),
            decoder.iou_prediction_head(tokens[:, 0]))


def loss_of(logits: Tensor, predicted: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy and dice loss of the single mask and the best of three, plus IoU error."""
    goal = masks[:, None].expand_as(logits)
    area = (2, 3)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction='none').mean(area)
    share = logits.sigmoid()
    dice = 1 - (2 * (share * goal).sum(area) + 1) / (share.sum(area) + goal.sum(area) + 1)
    each = 10 * entropy + dice
    with torch.no_grad():
        hit, true = logits > 0, goal > 0.5
        iou = (hit & true).sum(area) / (hit | true).sum(area).clamp(min=1)
    three = each[:, 1:]
    return (each[:, 0] + three.min(1).values + 0.2 * three.mean(1)).mean() + F.mse_loss(
        predicted, iou)


@torch.no_grad()
def evaluate(path, count: int = 200) -> dict[str, float]:
    """Measure the IoU by SamPredictor with the true box and points, best of three as predicted."""
    predictor = SamPredictor(build_sam_shapes(str(path)))
    ious, filled, errors = [], [], []
    for i in range(count):
        scene = make_scene('val', i)
        mask = object_mask(scene.target.polygon, *scene.image.shape[:2])
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
        predictor.set_image(scene.image)
        found, scores, _ = predictor.predict(
            point_coords=points_from_mask(mask), point_labels=np.ones(2), box=box)
        best = found[scores.argmax()]
        ious.append((best & mask).sum() / (best | mask).sum())
        errors.append(abs(float(scores.max()) - ious[-1]))
        filled.append(mask.sum() / ((box[2] - box[0] + 1) * (box[3] - box[1] + 1)))
    return dict(mean_iou=round(float(np.mean(ious)), 4),
                lowest_iou=round(float(np.min(ious)), 4),
                mean_error_of_predicted_iou=round(float(np.mean(errors)), 4),
                mean_iou_of_filled_box=round(float(np.mean(filled)), 4))


def main() -> None:
    """Train, save and evaluate."""
    args = parse_args(PARSER)
    rng = start(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    steps = max(1, round(STEPS * args.scale))
    progress = Progress('sam', steps)
    pool = [prepare(draw_scene(rng)) for _ in range(POOL)]
    sam = build_sam_shapes().train()
    optimizer = torch.optim.AdamW(sam.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1,
                                                   pct_start=0.1)
    for step in range(1, steps + 1):
        # Mostly box and points, sometimes only one of them.
        use = rng.random()
        batch = draw_batch(pool, rng)
        logits, predicted = predict(sam, batch, use < 0.85, not 0.7 < use < 0.85)
        loss = loss_of(logits, predicted, batch['masks'])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss=loss.item())
    path = args.out / 'sam_shapes.pth'
    temporary = path.with_suffix('.tmp')
    torch.save({key: value.half() for key, value in sam.state_dict().items()}, temporary)
    os.replace(temporary, path)
    save_report(args.out, 'sam', dict(
        parameters=sum(p.numel() for p in sam.parameters()), seed=args.seed, steps=steps,
        samples=steps * BATCH, minutes=round(progress.seconds / 60, 1), **evaluate(path)))


if __name__ == '__main__':
    main()
