# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One complete GRPO step: `GRPOTrainLoop` against `trl.GRPOTrainer`, with the same work.

    pip install -r tools/benchmarks/requirements-trl.txt    # into a copy of the environment
    python tools/benchmarks/whole_step_trl.py

A step is everything between two optimizer steps: preprocessing, the rollout of G responses to one
question about one image, rewards, log-probabilities under the reference, and the update by AdamW
with gradient clipping. Both sides load the same random policy (fp32, sdpa, gradient checkpointing)
and the same prompt; end tokens are masked, so every response has the same length. Reading the image
is excluded. Each side is a separate process and only steps on request. `cpu_time` is the processor
time of the same steps, which other programs on the machine disturb less.

TRL is set up for speed: one batch of G (one update per rollout, so no pass for old
log-probabilities), no logging, no checkpoints; and its output head may skip the prompt's positions,
which by default it only does on a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--repeats', type=int, default=3, help='measured steps of each side')
    parser.add_argument('--tokens', type=int, default=200, help='length of every response')
    parser.add_argument('--group-size', type=int, default=8, help='responses to the prompt')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each side')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import (
    PROMPT_TEMPLATE,
    QUESTION,
    EndlessHead,
    alternate,
    environment,
    make_image,
    make_policy,
    peak_memory,
    print_json,
    summary,
)
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdpad.registry import MODELS, REWARDS
from mmdpad.structures import RolloutBatch

LR, MAX_NORM, KL_COEF = 1e-6, 1.0, 5e-3
MODELS.register_module(module=EndlessHead)


def main() -> None:
    args = parse_args()
    if environment().get('trl') is None:
        raise SystemExit('trl is missing: pip install -r tools/benchmarks/requirements-trl.txt')
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE='1')
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(f'{folder}/policy')
        args.forbidden = EndlessHead(policy).vision_token_ids
        sides = {name: Side(take, policy, f'{folder}/{name}', args)
                 for name, take in (('mmdpad', train_mmdpad), ('trl', train_trl))}
        seconds = alternate({name: side.step for name, side in sides.items()}, args.repeats)
        facts = {name: side.finish() for name, side in sides.items()}
    check_equal_work(facts, args)
    for fact in facts.values():
        fact['response_tokens'] = args.group_size * args.tokens
    cpu_seconds = {name: fact.pop('cpu_seconds') for name, fact in facts.items()}
    print_json(dict(summary(seconds), cpu_time=summary(cpu_seconds), per_step=facts,
                    environment=environment()))


def check_equal_work(facts: dict[str, dict], args: argparse.Namespace) -> None:
    """Check that both sides had prompts and responses of the same lengths in every step.

    Raises:
        RuntimeError: They did not.
    """
    steps = [[args.tokens] * args.group_size] * (args.repeats + 1)
    prompt = facts['mmdpad']['prompt_tokens']
    for name, fact in facts.items():
        found = (fact['prompt_tokens'], fact['response_tokens'])
        if found != (prompt, steps):
            raise RuntimeError(f'Tokens of the prompt and of the responses should be '
                               f'{(prompt, steps)}, but those of {name} are {found}')


class Side:
    """A training in a separate process, which takes each step on request.

    Args:
        train: ``train(turns, *args)``, a function in this module. It calls ``turns.wait()`` before
            each step and ``turns.done()`` after it, and returns facts about the run.
        args: Further arguments.
    """

    def __init__(self, train: Any, *args: Any) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_side, args=(theirs, train, *args), daemon=True)
        self.process.start()
        theirs.close()

    def step(self) -> None:
        """Have one step taken, and wait until it ends."""
        self.pipe.send(None)
        self.pipe.recv()

    def finish(self) -> dict[str, Any]:
        """The result of ``train`` and the peak memory, after the last step."""
        facts = self.pipe.recv()
        self.process.join()
        return facts


class Turns:
    """The other end of a :class:`Side`, in its process.

    Attributes:
        cpu_seconds: Processor time of each step.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.cpu_seconds: list[float] = []

    def wait(self, *_: Any, **__: Any) -> None:
        """Wait for the request of the next step. A callback: arguments are ignored."""
        self.pipe.recv()
        self.start = time.process_time()

    def done(self, *_: Any, **__: Any) -> None:
        """Report that the step is done."""
        self.cpu_seconds.append(time.process_time() - self.start)
        self.pipe.send(None)


def run_side(pipe: Connection, train: Any, *args: Any) -> None:
    """The main function of a :class:`Side`'s process."""
    sys.stdout = sys.stderr  # the trainers' output is not part of the result
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    turns = Turns(pipe)
    facts = train(turns, *args)
    pipe.send(dict(facts, peak_memory_gib=peak_memory() / 2**10, cpu_seconds=turns.cpu_seconds[1:]))


def reward_of(text: str) -> float:
    """A reward at no cost: the share of letters."""
    return sum(letter.isalpha() for letter in text) / max(len(text), 1)


@REWARDS.register_module()
def share_of_letters(rollout: RolloutBatch) -> Tensor:
    """(B, G) rewards of a rollout."""
    return rollout.per_response([reward_of(text) for text in rollout.texts])


class TurnsHook(Hook):
    """Makes ``GRPOTrainLoop`` take turns, and records the size of its rollouts."""

    def __init__(self, turns: Turns) -> None:
        self.before_train_iter = turns.wait
        self.after_train_iter = turns.done
        self.lengths: list[list[int]] = []

    def after_rollout(self, runner: Runner, rollout: RolloutBatch) -> None:
        self.lengths.append(rollout.response_mask.sum(dim=1).tolist())


def train_mmdpad(turns: Turns, policy: str, work_dir: str,
                 args: argparse.Namespace) -> dict[str, Any]:
    """Steps of ``GRPOTrainLoop``."""
    hook = TurnsHook(turns)
    sample = DetDataSample(metainfo=dict(question=QUESTION))
    runner = Runner(
        model=dict(
            type='ReasoningSegmentor',
            policy=dict(type='EndlessHead', pretrained=policy, prompt_template=PROMPT_TEMPLATE,
                        gradient_checkpointing=True),
            loss=dict(type='GRPOLoss', kl_coef=KL_COEF, entropy_coef=0.0),
            train_cfg=dict(group_size=args.group_size, max_new_tokens=args.tokens)),
        work_dir=work_dir,
        train_dataloader=dict(
            batch_size=1, num_workers=0, collate_fn=dict(type='pseudo_collate'),
            sampler=dict(type='InfiniteSampler'),
            dataset=[dict(inputs=dict(model_image=make_image()), data_samples=sample)]),
        train_cfg=dict(type='GRPOTrainLoop', max_iters=args.repeats + 1,
                       rewards=dict(letters=dict(type='share_of_letters'))),
        # `fused` is the default of the trainer on the other side.
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=0.0, fused=True),
                           clip_grad=dict(max_norm=MAX_NORM)),
        default_hooks=dict(logger=None, checkpoint=None), custom_hooks=[hook],
        default_scope='mmdpad', log_level='ERROR', randomness=dict(seed=0),
        experiment_name='whole_step')
    runner.train()
    prompts = runner.model.policy.encode_prompts([make_image()], [QUESTION])
    return dict(prompt_tokens=len(prompts[0]), response_tokens=hook.lengths)


def train_trl(turns: Turns, policy: str, work_dir: str,
              args: argparse.Namespace) -> dict[str, Any]:
    """Steps of ``GRPOTrainer``."""
    import trl.trainer.utils
    from datasets import Dataset
    from PIL import Image
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lengths = []
    callback = TrainerCallback()
    callback.on_step_begin, callback.on_step_end = turns.wait, turns.done

    def share_of_letters(completions: list, completion_ids: list, **kwargs: Any) -> list[float]:
        lengths.append([len(ids) for ids in completion_ids])
        return [reward_of(message['content']) for message, in completions]

    # As TRL does on a GPU: the output head only sees the response's positions.
    trl.trainer.utils._use_triton = lambda device: True
    steps = args.repeats + 1
    prompt = [dict(role='user', content=PROMPT_TEMPLATE.format(question=QUESTION))]
    image = Image.fromarray(make_image().permute(1, 2, 0).numpy())
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=share_of_letters,
        train_dataset=Dataset.from_dict(dict(prompt=[prompt] * steps, image=[image] * steps)),
        callbacks=[callback],
        args=GRPOConfig(
            output_dir=work_dir, max_steps=steps, use_cpu=True, bf16=False,
            per_device_train_batch_size=args.group_size, num_generations=args.group_size,
            gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1,
            max_completion_length=args.tokens, beta=KL_COEF, loss_type='grpo',
            learning_rate=LR, lr_scheduler_type='constant', weight_decay=0.0,
            max_grad_norm=MAX_NORM, gradient_checkpointing=True,
            model_init_kwargs=dict(dtype='float32', attn_implementation='sdpa'),
            generation_kwargs=dict(suppress_tokens=args.forbidden),
            logging_strategy='no', save_strategy='no', report_to='none', disable_tqdm=True,
            seed=0))
    trainer.train()
    seen = trainer.state.num_input_tokens_seen / (steps * args.group_size)
    return dict(prompt_tokens=int(seen) - args.tokens, response_tokens=lengths)


if __name__ == '__main__':
    main()
