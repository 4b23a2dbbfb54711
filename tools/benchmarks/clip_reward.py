# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times the discriminative term against two full CLIP passes for each response.

    python tools/benchmarks/clip_reward.py

Weights are random: neither time nor equality depends on them. These are timed in turn:

    cold                  the term on a rollout with new images
    warm                  the same images again, as in a later epoch
    reference             each response separately: region and caption, image and caption; images
                          are preprocessed and captions padded to the context for each pass
    reference_unpadded    the same, with each caption cut at its end

Prints JSON. Fails if the two ways do not give the same cosines and rewards.
"""

from __future__ import annotations

import argparse
from statistics import median
from types import SimpleNamespace


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='ViT-B-32', help='`model_name` of the discriminator')
    parser.add_argument('--prompts', type=int, default=4, help='prompts of the rollout (B)')
    parser.add_argument('--group', type=int, default=8, help='responses per prompt (G)')
    parser.add_argument('--size', type=int, default=840, help='side of the images, pixels')
    parser.add_argument('--words', type=int, nargs=2, default=(15, 40), metavar=('MIN', 'MAX'),
                        help='length of the captions')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import cv2
import numpy as np
import open_clip
import torch
from common import alternate, environment, print_json, summary
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor

from mmdpad.models import CLIPDiscriminator
from mmdpad.models.discriminators.text_tower import encode_text
from mmdpad.rewards import DiscriminativeReward
from mmdpad.structures import ReasoningOutput, RolloutBatch

TOLERANCE = 1e-4
WORDS = ('a the of in on with near behind left right small large red white striped wooden man '
         'woman child dog giraffe bicycle umbrella refrigerator skateboarder table window '
         'background holding wearing standing leaning reflected partially visible corrugated '
         'fence, grass, counter, which because').split()


def make_rollout(args: argparse.Namespace) -> RolloutBatch:
    """B random images with a target box, and a random caption for each response."""
    rng = np.random.default_rng(args.seed)
    images, samples, parsed = [], [], []
    for _ in range(args.prompts):
        patches = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image = cv2.resize(patches, (args.size, args.size), interpolation=cv2.INTER_NEAREST)
        images.append(torch.from_numpy(image).permute(2, 0, 1))
        width, height = rng.integers(args.size // 8, args.size // 2, 2).tolist()
        x, y = (int(rng.integers(0, args.size - side)) for side in (width, height))
        box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float)
        samples.append(SimpleNamespace(model_targets=SimpleNamespace(bboxes=box)))
    for _ in range(args.prompts * args.group):
        words = rng.choice(WORDS, rng.integers(args.words[0], args.words[1] + 1))
        parsed.append(ReasoningOutput(None, ' '.join(words), ()))
    return RolloutBatch(samples, images, args.group, [''] * len(parsed), parsed)


@torch.no_grad()
def score_one_by_one(discriminator: CLIPDiscriminator, rollout: RolloutBatch,
                     padded: bool) -> Tensor:
    """(B * G, 2) cosines of each caption with its region and its image, two passes per response."""
    model, pairs = discriminator.clip, []
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in rollout.model_images]
    for row, parsed in enumerate(rollout.parsed):
        prompt = row // rollout.group_size
        box = rollout.target_boxes[prompt][0].int().tolist()
        for image in (images[prompt].crop(box), images[prompt]):
            pixels, tokens = discriminator._preprocess(image), discriminator.tokens
            text = (model.encode_text(tokens([parsed.caption]), normalize=True) if padded
                    else encode_text(model, tokens([parsed.caption])))
            pairs.append((model.encode_image(pixels[None], normalize=True) * text).sum())
    return torch.stack(pairs).reshape(-1, 2)


def compare(reward: DiscriminativeReward, rollout: RolloutBatch) -> dict:
    """Largest differences between the two ways.

    Raises:
        SystemExit: One is above ``TOLERANCE``, or a caption was not scored.
    """
    rewards = reward(rollout).flatten()
    ours = torch.stack([rollout.signals[key].flatten() for key in ('s_roi', 's_image')], dim=1)
    pairs = score_one_by_one(reward.discriminators[0], rollout, padded=True)
    margins = pairs[:, 0] - pairs[:, 1]
    result = dict(cosine=float((ours - pairs).abs().max()),
                  reward=float((rewards - torch.sigmoid(10 * margins)).abs().max()))
    if not all(value <= TOLERANCE for value in result.values()):
        raise SystemExit(f'Both ways should agree to {TOLERANCE}, but they differ by {result} '
                         f'(NaN: a caption is longer than the context; lower --words)')
    return dict(result, std_of_margins=float(margins.std()))


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with DefaultScope.overwrite_default_scope('mmdpad'):
        reward = DiscriminativeReward(
            dict(type='CLIPDiscriminator', model_name=args.model, pretrained=None,
                 allow_random=True), device='cpu', form='sigmoid', alpha=10.0)
        reward.prepare()
    model, rollout = reward.discriminators[0], make_rollout(args)
    tokens = [model.tokens.count(parsed.caption) for parsed in rollout.parsed]

    def cold() -> None:
        model.feature_cache.clear()
        reward(rollout)

    difference = compare(reward, rollout)  # and the warm-up
    seconds = alternate(dict(
        cold=cold, warm=lambda: reward(rollout),
        reference=lambda: score_one_by_one(model, rollout, padded=True),
        reference_unpadded=lambda: score_one_by_one(model, rollout, padded=False)), args.repeats)
    print_json(dict(
        environment=dict(environment(), open_clip=open_clip.__version__), setting=vars(args),
        caption_tokens=dict(median=median(tokens), max=max(tokens)), difference=difference,
        **summary(seconds, 'cold'),
        ratio_warm=median(seconds['reference']) / median(seconds['warm'])))


if __name__ == '__main__':
    main()
