# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains the toy policy: `python tools/toy/make_policy.py [--out DIR]`.

A Qwen2.5-VL with 1.6 million parameters, trained on ideal answers in the shapes world and saved in
transformers' format. It is a start policy for reinforcement learning: it follows the template, is
often right with greedy decoding and clearly less often when sampled, and writes captions of every
kind.

Four things make training fast: rows that share one image (`policy_data`), soft targets for numbers
(a neighboring pixel is nearly right), number embeddings initialized on a smooth curve, and an
auxiliary head, discarded later, that teaches image tokens from the first step to name the object
they show.
"""
from __future__ import annotations

import argparse
import math
from pathlib import Path

from arguments import make_parser, parse_args

from mmdpad.toy.shapes_world import MIXTURES, WORLDS


def command_line() -> argparse.ArgumentParser:
    parser = make_parser(__doc__.splitlines()[0], 'policy')
    parser.add_argument('--init', type=Path, help='folder of a model to start from')
    parser.add_argument('--world', choices=[*WORLDS, *MIXTURES], default='plain',
                        help='what scenes are like')
    parser.add_argument('--tied', action='store_true',
                        help='reasoning that lists objects comes with vague captions, focused '
                             'reasoning with specific ones')
    parser.add_argument('--mistakes', type=float, default=0.0,
                        help='share of answers about an object other than the one asked for')
    return parser


if __name__ == '__main__':
    parse_args(command_line())  # --help does not wait for the imports below

import torch
import torch.nn.functional as F
from common import Progress, save_report, start
from muon import Muon
from policy_data import QUESTIONS, Batches, RowMaker
from policy_eval import evaluate
from policy_files import LARGEST_NUMBER, MERGE, PATCH, make_config, make_processor
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, Qwen2_5_VLForConditionalGeneration

from mmdpad.toy.shapes_world import COLORS, SHAPES, SHAPES_IMAGE_SIZE, SIZES

STEPS = 3000
ROWS = 8
FADE = 0.6
MUON_RATE, ADAM_RATE = 0.015, 3e-3
NUMBER_WEIGHT = 2.0
NUMBER_SPREAD = 1.0
HELPER_WEIGHT = 0.5
SAVE_EVERY = 250


class HelperHead(nn.Module):
    """Predicts object, size, color, shape and box from each image token; only used in training.

    Words and numbers are predicted with the model's own embeddings, so that image tokens learn to
    represent them as the language model writes them.
    """

    def __init__(self, model, processor):
        super().__init__()
        self.width = model.config.text_config.hidden_size
        self.presence = nn.Linear(self.width, 2)
        self.corners = nn.Linear(self.width, 4 * self.width)
        self.words = [torch.tensor(processor.tokenizer.convert_tokens_to_ids(
            ['\u0120' + word for word in group])) for group in (SIZES, COLORS, SHAPES)]
        self.numbers = number_ids(processor)

    def loss(self, hidden: Tensor, embeddings: Tensor, grid: Tensor) -> Tensor:
        """Compute the loss of image tokens (B, N, C) against `policy_data.Row.grid` (B, N, 8)."""
        hidden = F.rms_norm(hidden, hidden.shape[-1:])
        shown = grid[..., 0] > 0
        loss = F.cross_entropy(self.presence(hidden).flatten(0, 1), shown.long().flatten())
        hidden, grid = hidden[shown], grid[shown]
        for i, words in enumerate(self.words, 1):
            loss = loss + F.cross_entropy(hidden @ embeddings[words].t(), grid[:, i].long())
        corners = self.corners(hidden).unflatten(-1, (4, self.width))
        logits = corners @ embeddings[self.numbers].t()
        return loss + F.cross_entropy(logits.flatten(0, 1),
                                      soften(grid[:, 4:].flatten(), len(self.numbers), 2.0))


def soften(values: Tensor, count: int, spread: float) -> Tensor:
    """Turn numbers (N,) into bell curves (N, count) with the given standard deviation."""
    distance = values[:, None] - torch.arange(count)
    return (-0.5 * (distance / spread)**2).softmax(-1)


def make_model(processor) -> Qwen2_5_VLForConditionalGeneration:
    """Make a new model whose number embeddings lie on a smooth curve."""
    config = make_config(processor.tokenizer)
    config._attn_implementation = 'eager'
    model = Qwen2_5_VLForConditionalGeneration(config)
    width = config.text_config.hidden_size
    numbers = torch.arange(LARGEST_NUMBER + 1)[:, None]
    periods = torch.logspace(math.log10(6), math.log10(400), width // 2)
    angles = 2 * math.pi * numbers / periods
    with torch.no_grad():
        model.get_input_embeddings().weight[number_ids(processor)] = 0.03 * torch.cat(
            [angles.sin(), angles.cos()], dim=1)
    return model


def number_ids(processor) -> Tensor:
    """Token ids of the integers 0 ... LARGEST_NUMBER, long."""
    return torch.tensor(processor.tokenizer.convert_tokens_to_ids(
        [str(number) for number in range(LARGEST_NUMBER + 1)]))


def cut_patches(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Cut uint8 images (B, h, w, 3) into (B, patches, values) in the order of Qwen's image
    processor: 2 x 2 neighbors together; values by channel, time (the image twice), row, column."""
    count, height, width, _ = images.shape
    values = (images.float() / 255 - mean) / std
    block = PATCH * MERGE
    values = values.view(count, height // block, MERGE, PATCH, width // block, MERGE, PATCH, 3)
    values = values.permute(0, 1, 4, 2, 5, 7, 3, 6)
    values = values.unsqueeze(6).expand(*values.shape[:6], 2, *values.shape[6:])
    return values.reshape(count, -1, 3 * 2 * PATCH * PATCH)


def encode_images(visual, patches: Tensor) -> Tensor:
    """Run the vision tower on B images of one size: (B, patches, values) -> (B, tokens, C).

    This equals `visual(...)`, which is slower because it attends image by image.
    """
    side = SHAPES_IMAGE_SIZE[0] // PATCH
    half = torch.arange(side // MERGE)
    rows, columns, i, j = torch.meshgrid(half, half, torch.arange(MERGE), torch.arange(MERGE),
                                         indexing='ij')
    where = torch.stack([rows * MERGE + i, columns * MERGE + j], dim=-1).view(-1, 2)
    hidden = patches @ visual.patch_embed.proj.weight.flatten(1).t()
    cos, sin = (part[None, :, None] for part in visual.rotary_pos_emb(hidden, where))
    for block in visual.blocks:
        attention = block.attn
        query, key, value = attention.qkv(block.norm1(hidden)).unflatten(
            -1, (3, attention.num_heads, -1)).unbind(2)
        query, key = (x * cos + torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1) * sin
                      for x in (query, key))
        weights = torch.einsum('bqhc,bkhc->bhqk', query, key) * attention.scaling
        mixed = torch.einsum('bhqk,bkhc->bqhc', weights.softmax(-1), value)
        hidden = hidden + attention.proj(mixed.flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).view(len(patches), -1, visual.config.out_hidden_size)


def forward(model, prefix: Tensor, tokens: Tensor, patches: Tensor,
            crops: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run B images with K questions each; the shared prefix is computed once per image.

    Args:
        model: The policy.
        prefix: (P,), tokens up to and including the image.
        tokens: (B * K, L), tokens after the prefix, padded on the right.
        patches: (B, patches, values), see `cut_patches`.
        crops: (C, patches, values), of the images among `tokens`, at most one in each row.

    Returns:
        Last hidden states of `tokens` (B * K, L, C) and the image tokens (images, N, C), those of
        the crops if there are any.
    """
    seen = encode_images(model.model.visual, patches)
    count = len(seen)
    embed = model.get_input_embeddings()
    image_token = model.config.image_token_id
    hidden = embed(prefix).expand(count, -1, -1).masked_scatter(
        (prefix == image_token)[:, None], seen)
    place = find_places(prefix[None] == image_token)
    cache = DynamicCache(config=model.config.text_config)
    language_model = model.model.language_model
    language_model(inputs_embeds=hidden, position_ids=place.expand(-1, count, -1),
                   past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(tokens) // count)
    hidden = embed(tokens)
    is_image = tokens == image_token
    if crops is not None:
        seen = encode_images(model.model.visual, crops)
        hidden = hidden.masked_scatter(is_image[..., None], seen)
    out = language_model(inputs_embeds=hidden,
                         position_ids=find_places(is_image) + int(place.max()) + 1,
                         past_key_values=cache, use_cache=True)
    return out.last_hidden_state, seen


def find_places(is_image: Tensor) -> Tensor:
    """Time, row and column (3, N, L) of tokens in N rows of texts, each with one image at most, as
    Qwen2.5-VL counts them: an image of n x n tokens takes the place of n."""
    side = SHAPES_IMAGE_SIZE[0] // (PATCH * MERGE)
    place = torch.arange(is_image.shape[1])
    done = is_image.cumsum(1)
    cell = done - 1
    text = place - (done - done.clamp(max=1) * side) * ~is_image
    begin = place - cell
    return torch.stack([torch.where(is_image, begin + offset, text)
                        for offset in (cell * 0, cell // side, cell % side)])


def answer_loss(model, hidden: Tensor, batch: dict[str, Tensor], numbers: Tensor) -> Tensor:
    """Weighted cross entropy of the response tokens; numbers have soft targets."""
    learn = batch['learn'][:, 1:]
    goal = batch['tokens'][:, 1:][learn]
    log_probs = model.lm_head(hidden[:, :-1][learn]).log_softmax(-1)
    loss = -log_probs.gather(1, goal[:, None])[:, 0]
    value = torch.full((log_probs.shape[1],), -1)
    value[numbers] = torch.arange(len(numbers))
    value = value[goal]
    is_number = value >= 0
    soft = soften(value[is_number], len(numbers), NUMBER_SPREAD)
    loss[is_number] = -(soft * log_probs[is_number][:, numbers]).sum(-1)
    weight = torch.where(is_number, NUMBER_WEIGHT, 1.0)
    return (loss * weight).sum() / weight.sum()


def make_optimizers(model, helper) -> list[torch.optim.Optimizer]:
    """Use Muon for the inner matrices, AdamW for embeddings, vectors and the helper head."""
    inner, rest = [], list(helper.parameters())
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and 'embed_tokens' not in name
        (inner if is_matrix else rest).append(parameter)
    return [Muon(inner, lr=MUON_RATE),
            torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def rate_at(step: int, steps: int) -> float:
    """Share of the full learning rate: short warm-up, plateau, linear decay in the last half."""
    return min(step / 100, 1.0, 2 * (steps - step) / steps + 0.01)


def save(model, processor, folder: Path) -> None:
    """Save model (in half precision) and processor for `from_pretrained`."""
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    processor.save_pretrained(folder)


def load_weights(model, processor, folder: Path) -> None:
    """Load the policy in a folder; tokens that its tokenizer lacks keep their new embeddings."""
    state = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32).state_dict()
    places = AutoTokenizer.from_pretrained(folder).get_vocab()
    tokens = processor.tokenizer.get_vocab()
    assert places.keys() <= tokens.keys()
    for name in ('model.language_model.embed_tokens.weight', 'lm_head.weight'):
        embeddings = model.state_dict()[name].clone()
        embeddings[[tokens[token] for token in places]] = state[name][list(places.values())]
        state[name] = embeddings
    model.load_state_dict(state)


def train(folder: Path, seed: int, steps: int, init: Path | None = None, rate: float = 1.0,
          processor=None, rows: int = ROWS, **style) -> Progress:
    """Train a policy (a new one, or that in `init`) on answers in a style (arguments of `Batches`
    and `RowMaker`); save it every `SAVE_EVERY` steps and at the end. `rate` scales the learning
    rates; below 1 the policy should change little, so there is no helper head, and list-all
    questions come only in the first batch. `processor` is the default one unless given, and `rows`
    the number of images in a batch."""
    processor = processor or make_processor()
    model = make_model(processor)
    if init is not None:
        load_weights(model, processor, init)
    helper = HelperHead(model, processor)
    helper_weight, fade = (HELPER_WEIGHT, FADE) if rate == 1 else (0.0, 0.0)
    optimizers = make_optimizers(model, helper)
    numbers = number_ids(processor)
    mean, std = (torch.tensor(value) for value in (processor.image_processor.image_mean,
                                                   processor.image_processor.image_std))
    prefix = torch.tensor(RowMaker(processor, seed).prefix)
    batches = Batches(processor, seed, rows, fade=max(1, round(fade * steps)), **style)
    loader = iter(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1,
                                              prefetch_factor=8))
    progress, mean_loss = Progress('policy', steps), 0.0
    for step in range(1, steps + 1):
        batch = next(loader)
        patches, crops = (cut_patches(batch[name], mean, std) if name in batch else None
                          for name in ('images', 'crops'))
        hidden, seen = forward(model, prefix, batch['tokens'], patches, crops)
        loss = answer_loss(model, hidden, batch, numbers)
        extra = helper.loss(seen, model.get_input_embeddings().weight, batch['grid'])
        (loss + helper_weight * extra).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, full in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]['lr'] = full * rate * rate_at(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        mean_loss = loss.item() if step == 1 else 0.98 * mean_loss + 0.02 * loss.item()
        progress(step, loss=mean_loss, helper=extra.item())
        if step % SAVE_EVERY == 0 or step == steps:
            save(model, processor, folder)
    return progress


def main() -> None:
    """Train, save and evaluate."""
    args = parse_args(command_line())
    start(args.seed)
    steps = max(1, round(STEPS * args.scale))
    progress = train(args.out, args.seed, steps, args.init, world=args.world,
                     tied=args.tied, mistakes=args.mistakes)
    numbers = (evaluate(args.out, greedy=True, world=args.world)
               | evaluate(args.out, greedy=False, world=args.world))
    save_report(args.out, 'policy', dict(
        seed=args.seed, steps=steps, answers=steps * ROWS * QUESTIONS,
        minutes=round(progress.seconds / 60, 1), **numbers))


if __name__ == '__main__':
    main()
