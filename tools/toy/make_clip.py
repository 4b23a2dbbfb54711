# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains the toy CLIP: `python tools/toy/make_clip.py [--out DIR]`.

A contrastive model for 56-pixel images and captions of the shapes world, saved as an open_clip
`local-dir:` folder. Half of each batch are crops of one object with its caption; the other half are
whole scenes with a generic caption or (45 %) the caption of one of their objects. Without the
latter, the model would only learn that a specific caption means a crop, and reward wrong ones too.
"""
from __future__ import annotations

import json

from arguments import make_parser, parse_args

PARSER = make_parser(__doc__.splitlines()[0], 'clip')
if __name__ == '__main__':
    parse_args(PARSER)  # --help does not wait for the imports below

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from common import (
    Progress,
    save_report,
    start,
    targets_of,
    to_model_image,
    world_words,
)
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mmdpad.toy.shapes_world import GENERIC_CAPTIONS, captions_of, draw_scene, make_scene

SIZE = 56
STEPS = 1500
BATCH = 192
POOL = 6000
MEMBER_SHARE = 0.45
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def save_tokenizer(folder) -> int:
    """Save a word tokenizer for open_clip's HFTokenizer; return the size of its vocabulary."""
    words = ['[PAD]', '[UNK]', '[START]', *world_words(), ',', '.', '[END]']
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[START] $A [END]',
        special_tokens=[(name, vocab[name]) for name in ('[START]', '[END]')])
    tokenizer.add_special_tokens(['[PAD]', '[UNK]', '[START]', '[END]'])
    tokenizer.save(str(folder / 'tokenizer.json'))
    config = dict(tokenizer_class='PreTrainedTokenizerFast', pad_token='[PAD]', unk_token='[UNK]',
                  bos_token='[START]', eos_token='[END]', model_max_length=32)
    (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=1) + '\n')
    return len(words)


def save_config(folder, vocab_size: int) -> None:
    """Save open_clip's config of the model and its preprocessing."""
    model = dict(
        embed_dim=64,
        vision_cfg=dict(image_size=SIZE, patch_size=8, width=64, layers=3, head_width=16),
        text_cfg=dict(context_length=32, vocab_size=vocab_size, width=64, heads=4, layers=2,
                      hf_tokenizer_name='local', pool_type='argmax'))
    preprocess = dict(mean=MEAN, std=STD, interpolation='bicubic', resize_mode='squash')
    text = json.dumps(dict(model_cfg=model, preprocess_cfg=preprocess), indent=1)
    (folder / 'open_clip_config.json').write_text(text + '\n')


def crop(image: np.ndarray, box, rng: np.random.Generator | None = None) -> np.ndarray:
    """Crop a box (XYXY, pixels of the model image) and resize it to CLIP's input."""
    height, width = image.shape[:2]
    shift = np.zeros(4) if rng is None else rng.uniform(-2, 2, 4)
    x1, y1, x2, y2 = np.round(np.asarray(box) + shift).astype(int)
    x1, y1 = min(max(x1, 0), width - 4), min(max(y1, 0), height - 4)
    part = image[y1:max(y2, y1 + 4), x1:max(x2, x1 + 4)]
    way = cv2.INTER_CUBIC if rng is None or rng.random() < 0.5 else cv2.INTER_AREA
    return cv2.resize(part, (SIZE, SIZE), interpolation=way)


def prepare(scene, rng=None):
    """Return the small image, and the crop and the captions of each object."""
    image = to_model_image(scene.image, rng)
    scale = np.array([112 / scene.image.shape[1], 112 / scene.image.shape[0]] * 2)
    crops = [crop(image, np.array(item.box) * scale, rng) for item in scene.objects]
    whole = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return whole, crops, [captions_of(scene.objects, i)['specific']
                          for i in range(len(scene.objects))]


def draw_batch(pool, rng):
    """Draw uint8 images (BATCH, SIZE, SIZE, 3), half crops and half scenes, and their captions."""
    images, texts = [], []
    for i, chosen in enumerate(rng.integers(len(pool), size=BATCH)):
        whole, crops, names = pool[chosen]
        member = int(rng.integers(len(crops)))
        specific = names[member][rng.integers(2)]
        if i % 2:
            images.append(crops[member])
            texts.append(specific)
        else:
            images.append(whole)
            generic = GENERIC_CAPTIONS[rng.integers(len(GENERIC_CAPTIONS))]
            texts.append(specific if rng.random() < MEMBER_SHARE else generic)
    return np.stack(images), texts


def to_input(images: np.ndarray) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> normalized float (B, 3, S, S)."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def loss_of(model, images, texts, tokens):
    """Symmetric contrastive loss; pairs with the same text also count as matches."""
    visual, textual, scale = model(images, tokens)
    logits = scale * visual @ textual.t()
    same = torch.tensor([[a == b for b in texts] for a in texts], dtype=torch.float32)
    goal = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.t(), goal)) / 2


@torch.no_grad()
def evaluate(folder, count: int = 500) -> dict:
    """Compute the share of captions nearer to the target's crop than to the image, by kind."""
    name = f'local-dir:{folder}'
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    wins: dict[str, list[bool]] = dict(specific=[], generic=[], other=[])
    for i in range(count):
        scene = make_scene('val', i)
        image = to_model_image(scene.image)
        x1, y1, x2, y2 = targets_of(scene)[scene.question.target][0]
        roi = image[y1:y2 + 1, x1:x2 + 1]
        pair = torch.stack([preprocess(Image.fromarray(part)) for part in (roi, image)])
        pair = model.encode_image(pair, normalize=True)
        for kind, texts in scene.captions().items():
            if texts:
                scores = pair @ model.encode_text(tokenizer(list(texts)), normalize=True).t()
                wins[kind] += (scores[0] > scores[1]).tolist()
    return {f'roi_above_image_{kind}': round(float(np.mean(hits)), 4)
            for kind, hits in wins.items()}


def main() -> None:
    """Train, save and evaluate."""
    args = parse_args(PARSER)
    rng = start(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    save_config(args.out, save_tokenizer(args.out))
    steps = max(1, round(STEPS * args.scale))
    progress = Progress('clip', steps)
    pool = [prepare(draw_scene(rng), rng) for _ in range(POOL)]
    model = open_clip.create_model(f'local-dir:{args.out}', load_weights=False)
    tokenizer = open_clip.get_tokenizer(f'local-dir:{args.out}')
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1,
                                                   pct_start=0.1)
    for step in range(1, steps + 1):
        images, texts = draw_batch(pool, rng)
        loss = loss_of(model, to_input(images), texts, tokenizer(texts))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(50))
        progress(step, loss=loss.item())
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, str(args.out / 'open_clip_model.safetensors'), metadata=dict(format='pt'))
    numbers = evaluate(args.out)
    save_report(args.out, 'clip', dict(
        parameters=sum(p.numel() for p in model.parameters()), seed=args.seed, steps=steps,
        samples=steps * BATCH, minutes=round(progress.seconds / 60, 1), **numbers))


if __name__ == '__main__':
    main()
