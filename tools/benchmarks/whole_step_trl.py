# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One complete GRPO step: `GRPOTrainLoop` against `trl.GRPOTrainer`, with the same work.

    pip install -r tools/benchmarks/requirements-trl.txt    # into a copy of the environment
    python tools/benchmarks/whole_step_trl.py
    python tools/benchmarks/whole_step_trl.py --policy toy --before ../mmdpad_before

A step is everything between two optimizer steps: preprocessing, the rollout of G responses to each
question about an image, rewards, log-probabilities under the reference, and the update by AdamW
with gradient clipping. All sides load the same policy (fp32, sdpa) and see the same prompts, new
ones in every step. Reading the images is excluded. Each side is a separate process and only steps
on request.

- `--policy random`: one prompt a step, gradient checkpointing; end tokens are masked, so every
  response has the same length, which is checked. `mmdpad, memory budget` only recomputes what does
  not fit in `--memory-budget`; compare `peak_memory_mb`.
- `--policy toy`: the shipped policy at temperature 1, which ends its responses itself, as the toy
  config trains it (12 prompts a step, no checkpointing). The sides draw different random numbers,
  so the lengths of responses agree only on average: seconds are per 1000 response tokens, and
  `per_step` tells the tokens of each step. Learning is too slow to change them.

TRL is set up for speed: one batch (one update per rollout, so no pass for old log-probabilities),
no logging, no checkpoints; and its output head may skip the prompt's positions, which by default it
only does on a GPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from statistics import mean
from typing import Any

from builds import Turns, Worker, add_before, builds, compare

DEFAULTS = dict(random=dict(prompts=1, tokens=200, repeats=3, warm_up=1),
                toy=dict(prompts=12, tokens=112, repeats=8, warm_up=4))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--policy', choices=DEFAULTS, default='random')
    parser.add_argument('--prompts', type=int, help='prompts per step (1; toy: 12)')
    parser.add_argument('--group-size', type=int, default=8, help='responses to a prompt')
    parser.add_argument('--tokens', type=int,
                        help='length of every response (200); toy: at most (112)')
    parser.add_argument('--repeats', type=int, help='measured steps of each side (3; toy: 8)')
    parser.add_argument('--warm-up', type=int, help='steps before those (1; toy: 4)')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each side')
    parser.add_argument('--memory-budget', type=float, metavar='GB',
                        help='also measure a policy with this `memory_budget`')
    parser.add_argument('--peers', nargs='*', choices=['trl'], default=['trl'],
                        help='compare with these; none without a name')
    add_before(parser)
    args = parser.parse_args()
    for name, value in DEFAULTS[args.policy].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    EndlessHead,
    environment,
    make_image,
    make_policy,
    print_json,
    summary,
    toy_prompt,
)
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

from mmdpad.models import VLMReasoningHead
from mmdpad.registry import MODELS, REWARDS
from mmdpad.structures import RolloutBatch
from mmdpad.toy import POLICY_WEIGHTS

LR, MAX_NORM, KL_COEF = 1e-6, 1.0, 5e-3
MODELS.register_module(module=EndlessHead)


def main() -> None:
    args = parse_args()
    if environment().get('trl') is None and args.peers:
        raise SystemExit('trl is missing: pip install -r tools/benchmarks/requirements-trl.txt, or '
                         'leave it out (--peers without a name)')
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE='1')
    torch.set_num_threads(args.threads)
    trees = builds(args)
    with tempfile.TemporaryDirectory() as folder:
        random = args.policy == 'random'
        policy = make_policy(f'{folder}/policy') if random else POLICY_WEIGHTS
        head = (EndlessHead if random else VLMReasoningHead)(policy)
        args.forbidden = head.vision_token_ids
        workers = {name: Worker(tree, train_mmdpad, policy, f'{folder}/{name}', args)
                   for name, tree in trees.items()}
        if args.memory_budget is not None:
            workers['mmdpad, memory budget'] = Worker(
                trees['mmdpad'], train_mmdpad, policy, f'{folder}/budget', args, args.memory_budget)
        workers.update({name: Worker(trees['mmdpad'], train_trl, policy, f'{folder}/{name}', args)
                        for name in args.peers})
        result, facts = compare(workers, args.repeats, args.warm_up)
    check_equal_work(facts, args)
    if not random:
        result = per_1000_tokens(result, facts, args.repeats)
    print_json(dict(
        result, environment=environment(), load_average=os.getloadavg(),
        per_step={name: dict(prompt_tokens=fact['prompt_tokens'],
                             response_tokens=[sum(step) for step in fact['lengths']])
                  for name, fact in facts.items()}))


def check_equal_work(facts: dict[str, dict], args: argparse.Namespace) -> None:
    """Check that all sides had the same prompts; that there were as many responses in every step;
    and that their lengths are those asked for, or (of the toy policy) agree on average: within 10 %
    over all steps.

    Raises:
        RuntimeError: They do not.
    """
    rows, steps = args.prompts * args.group_size, args.repeats + args.warm_up
    prompt = facts['mmdpad']['prompt_tokens']
    total = sum(map(sum, facts['mmdpad']['lengths']))
    for name, fact in facts.items():
        found, lengths = fact['prompt_tokens'], fact['lengths']
        if found != prompt:
            raise RuntimeError(f'The prompts of a step should have {prompt} tokens, but those of '
                               f'{name} have {found}')
        if [len(step) for step in lengths] != [rows] * steps:
            raise RuntimeError(f'{name} should have {rows} responses in each of {steps} steps, but '
                               f'had {[len(step) for step in lengths]}')
        if args.policy == 'random' and any(set(step) != {args.tokens} for step in lengths):
            raise RuntimeError(f'Responses should have {args.tokens} tokens, but those of {name} '
                               f'have {lengths}')
        if abs(sum(map(sum, lengths)) / total - 1) > 0.1:
            raise RuntimeError(f'The mean length of responses should be {total / rows / steps:.1f} '
                               f'within 10 %, but that of {name} is '
                               f'{sum(map(sum, lengths)) / rows / steps:.1f}; take more steps '
                               f'(--repeats)')


def per_1000_tokens(result: dict[str, Any], facts: dict[str, dict],
                    repeats: int) -> dict[str, Any]:
    """The result of :func:`builds.compare` with its times divided by thousands of response
    tokens."""
    def per_token(times: dict[str, list[float]]) -> dict[str, Any]:
        return summary({name: [1000 * seconds / sum(step) for seconds, step in zip(
            values, facts[name]['lengths'][-repeats:], strict=True)]
            for name, values in times.items()})

    return dict(result, **per_token(result['seconds']), unit='1000 response tokens',
                cpu_time=per_token(result['cpu_time']['seconds']),
                seconds_per_step={name: mean(values) for name, values in
                                  result['seconds'].items()})


def prompts_of(args: argparse.Namespace) -> list[tuple[Tensor, str]]:
    """The prompts of all steps, in order."""
    numbers = range(args.prompts * (args.repeats + args.warm_up))
    if args.policy == 'toy':
        return [toy_prompt(number) for number in numbers]
    return [(make_image(seed=number), QUESTION) for number in numbers]


def reward_of(text: str) -> float:
    """A reward at no cost: the share of letters."""
    return sum(letter.isalpha() for letter in text) / max(len(text), 1)


@REWARDS.register_module()
def share_of_letters(rollout: RolloutBatch) -> Tensor:
    """(B, G) rewards of a rollout."""
    return rollout.per_response([reward_of(text) for text in rollout.texts])


class TurnsHook(Hook):
    """Makes ``GRPOTrainLoop`` take turns, and records the lengths of its prompts and responses."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.prompt_tokens: list[int] = []
        self.lengths: list[list[int]] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self.turns.wait()  # a step starts before its data is loaded, which includes encoding

    def after_rollout(self, runner: Runner, rollout: RolloutBatch) -> None:
        self.prompt_tokens.append(sum(map(len, rollout.prompts)))
        self.lengths.append(rollout.response_mask.sum(dim=1).tolist())

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self.turns.done()
        if len(self.lengths) < runner.max_iters:
            self.turns.wait()


def train_mmdpad(turns: Turns, policy: str, work_dir: str, args: argparse.Namespace,
                 memory_budget: float | None = None) -> dict[str, Any]:
    """Steps of ``GRPOTrainLoop``."""
    hook = TurnsHook(turns)
    items = [dict(inputs=dict(model_image=image),
                  data_samples=DetDataSample(metainfo=dict(question=question)))
             for image, question in prompts_of(args)]
    endless = args.policy == 'random'
    budget = {} if memory_budget is None else dict(memory_budget=memory_budget)
    runner = Runner(
        model=dict(
            type='ReasoningSegmentor',
            policy=dict(type='EndlessHead' if endless else 'VLMReasoningHead', pretrained=policy,
                        prompt_template=PROMPT_TEMPLATE, gradient_checkpointing=endless,
                        **budget),
            loss=dict(type='GRPOLoss', kl_coef=KL_COEF, entropy_coef=0.0),
            train_cfg=dict(group_size=args.group_size, max_new_tokens=args.tokens)),
        work_dir=work_dir,
        train_dataloader=dict(
            batch_size=args.prompts, num_workers=0, collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=False), dataset=items),
        train_cfg=dict(type='GRPOTrainLoop', max_iters=args.repeats + args.warm_up,
                       rewards=dict(letters=dict(type='share_of_letters'))),
        # `fused` is the default of the trainer on the other side.
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=0.0, fused=True),
                           clip_grad=dict(max_norm=MAX_NORM)),
        default_hooks=dict(logger=None, checkpoint=None), custom_hooks=[hook],
        default_scope='mmdpad', log_level='ERROR', randomness=dict(seed=0),
        experiment_name='whole_step')
    runner.train()
    return dict(prompt_tokens=hook.prompt_tokens, lengths=hook.lengths)


def train_trl(turns: Turns, policy: str, work_dir: str,
              args: argparse.Namespace) -> dict[str, Any]:
    """Steps of ``GRPOTrainer``."""
    import trl.trainer.utils
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[list[int]] = []
    seen = [0]

    class TurnsCallback(TrainerCallback):
        """Makes the trainer take turns, and records its count of tokens."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            turns.done()
            seen.append(state.num_input_tokens_seen)

    def share_of_letters(completions: list, completion_ids: list, **kwargs: Any) -> list[float]:
        lengths.append([len(ids) for ids in completion_ids])
        return [reward_of(message['content']) for message, in completions]

    # As TRL does on a GPU: the output head only sees the response's positions.
    trl.trainer.utils._use_triton = lambda device: True
    steps = args.repeats + args.warm_up
    images, questions = zip(*prompts_of(args), strict=True)
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=share_of_letters,
        train_dataset=Dataset.from_dict(dict(
            prompt=[[dict(role='user', content=PROMPT_TEMPLATE.format(question=question))]
                    for question in questions],
            image=[Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images])),
        callbacks=[TurnsCallback()],
        args=GRPOConfig(
            output_dir=work_dir, max_steps=steps, use_cpu=True, bf16=False, shuffle_dataset=False,
            per_device_train_batch_size=args.prompts * args.group_size,
            num_generations=args.group_size,
            gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
            max_completion_length=args.tokens, beta=KL_COEF, loss_type='grpo',
            learning_rate=LR, lr_scheduler_type='constant', weight_decay=0.0,
            max_grad_norm=MAX_NORM, gradient_checkpointing=args.policy == 'random',
            model_init_kwargs=dict(dtype='float32', attn_implementation='sdpa'),
            generation_kwargs=dict(suppress_tokens=args.forbidden),
            logging_strategy='no', save_strategy='no', report_to='none', disable_tqdm=True,
            seed=0))
    trainer.train()
    prompt_tokens = [(after - before - sum(step)) // args.group_size
                     for before, after, step in zip(seen, seen[1:], lengths, strict=False)]
    return dict(prompt_tokens=prompt_tokens, lengths=lengths)


if __name__ == '__main__':
    main()
