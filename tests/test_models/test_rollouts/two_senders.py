# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sends a sharded policy to servers from two processes of gloo.

    python two_senders.py FOLDER GOOD_URL BAD_URL

Each writes FOLDER/outcomeRANK.txt, with a line for each server and one about a rollout engine; the
first one also whole.pth.
"""
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mmdpad.models import VLLMServerRollout, VLMReasoningHead
from mmdpad.models.heads.named_weights import named_weights
from mmdpad.models.rollouts import vllm_server_rollout
from mmdpad.models.rollouts.vllm_client import Answer, Logprob, Row, Server
from mmdpad.models.rollouts.weight_transfer import WeightTransfer, WeightTransferError
from mmdpad.toy import POLICY_WEIGHTS

FOLDER, GOOD, BAD = sys.argv[1:]


def sample(head, rank):
    """With the weights held, only the second process samples, twice."""
    engine = VLLMServerRollout([GOOD], 'float32')
    engine.max_model_len = 4096
    vllm_server_rollout.generate = lambda server, prompt, *rest: Answer(
        prompt.input_ids.tolist(), [Row(0, [5], [{5: Logprob(-1.0)}], 'stop')])
    engine.hand_over(head)
    with engine.holding_weights():
        for _ in range(2 * rank):
            image = torch.zeros(3, 112, 112, dtype=torch.uint8)
            assert engine(head, head.encode_prompts([image], ['where?'])).ids.tolist() == [[5]]
    return all(isinstance(one, DTensor) for one in head.parameters()), engine.version


def send(rank):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', store=dist.FileStore(f'{FOLDER}/store', 2), rank=rank,
                            world_size=2)
    head = VLMReasoningHead(POLICY_WEIGHTS)
    model = head.model
    if rank == 0:
        torch.save({name: value.clone() for name, value in named_weights(model)},
                   f'{FOLDER}/whole.pth')
    fully_shard(model, mesh=init_device_mesh('cpu', (2, )))
    transfer = WeightTransfer(chunk_bytes=1 << 18, timeout=20)
    with open(f'{FOLDER}/outcome{rank}.txt', 'w') as outcome:
        print(transfer.send([Server(GOOD)], named_weights(model), 'sharded'), file=outcome)
        try:
            print(transfer.send([Server(BAD)], named_weights(model), 'sharded'), file=outcome)
        except WeightTransferError as error:
            print(repr(error), file=outcome)
        print(sample(head, rank), file=outcome)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == '__main__':
    child = os.fork()  # imports take longer than the rest
    send(0 if child else 1)
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
