# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiny policies of chosen shapes, and the memory and operations of real update steps on them."""
import json
import shutil
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.optim import OptimWrapper
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForImageTextToText

from mmdpad.models.cost.fake_policy import ImageInputs
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Workload
from mmdpad.models.heads.replies import ReplyEncoder
from mmdpad.models.rollouts import conversations
from mmdpad.prompts.zoom import Zoom
from mmdpad.registry import MODELS
from mmdpad.structures import RolloutBatch
from mmdpad.toy import POLICY_WEIGHTS


class StorageTracker(TorchDispatchMode):
    """Bytes of the tensor storages that are alive: now, and at the peak; not of fake tensors, by
    which estimates are made.

    Args:
        tensors: Those that were there before.
    """

    def __init__(self, tensors=()):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()
        self.add(tensors)

    def add(self, tree):
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.known and storage.device.type != 'meta':
                    self.known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.remove, key, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def remove(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.add(result)
        return result


def tiny_policy(folder, hidden=128, layers=4, heads=4, kv_heads=2, intermediate=384, vocab=512,
                tied=True, depth=2, vision_hidden=128, side=112):
    """A folder with a random policy of these sizes and the toy model's processor for square images
    of ``side`` pixels."""
    folder = Path(folder)
    for path in Path(POLICY_WEIGHTS).iterdir():
        if path.name != 'model.safetensors':
            shutil.copy(path, folder)
    config = json.loads((folder / 'config.json').read_text())
    _set_size(folder, side)
    config['text_config'].update(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=intermediate, vocab_size=vocab,
        layer_types=['full_attention'] * layers, tie_word_embeddings=tied)
    size = hidden // heads
    config['text_config']['rope_parameters']['mrope_section'] = [
        size // 8, size // 2 - 2 * (size // 8), size // 8]
    config['vision_config'].update(depth=depth, hidden_size=vision_hidden, out_hidden_size=hidden,
                                   fullatt_block_indexes=[depth - 1], window_size=64)
    config['tie_word_embeddings'] = tied
    (folder / 'config.json').write_text(json.dumps(config))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(
        AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


def _set_size(folder, side):
    """Make the processor keep images of ``side`` x ``side`` pixels."""
    path = folder / 'processor_config.json'
    processor = json.loads(path.read_text())
    processor['image_processor']['size'] = dict(longest_edge=side**2, shortest_edge=side**2)
    path.write_text(json.dumps(processor))


_EXPERTS = dict(moe_intermediate_size=96, num_experts=8, num_experts_per_tok=4)


def tiny_qwen3_vl(folder, kind='qwen3_vl', **text):
    """A random Qwen3-VL with two further levels, for images of 224 pixels."""
    tiny_policy(folder, side=224)
    rope = dict(rope_type='default', rope_theta=1e4, mrope_section=[12, 10, 10])
    config = AutoConfig.for_model(
        kind, image_token_id=510, video_token_id=511, vision_start_token_id=507,
        vision_end_token_id=508, tie_word_embeddings=True,
        text_config=dict(
            hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=64, vocab_size=512, pad_token_id=504,
            tie_word_embeddings=True, **{'rope_parameters': rope, **text}),
        vision_config=dict(
            depth=3, hidden_size=128, intermediate_size=256, num_heads=4, patch_size=8,
            spatial_merge_size=2, out_hidden_size=128, num_position_embeddings=196,
            **({} if kind.startswith('qwen3_5') else dict(deepstack_visual_indexes=[0, 1]))))
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return str(folder)


def tiny_glm4v(folder, kind='glm4v', **text):
    """A random GLM-4.1V for images of 224 pixels."""
    tiny_policy(folder, side=224)
    rope = dict(rope_type='default', rope_theta=1e4, partial_rotary_factor=0.5,
                mrope_section=[2, 3, 3])
    ids = dict(image=510, video=511, image_start=507, image_end=508, video_start=507, video_end=508)
    config = AutoConfig.for_model(
        kind, **{f'{name}_token_id': number for name, number in ids.items()}, text_config=dict(
            hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=512, pad_token_id=504, rope_parameters=rope,
            **text),
        vision_config=dict(
            depth=3, hidden_size=128, intermediate_size=320, num_heads=4, patch_size=8,
            image_size=56, spatial_merge_size=2, out_hidden_size=128))
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return str(folder)


def tiny_qwen3_vl_moe(folder):
    """The same as Qwen3-VL with eight experts in each layer, four of them for each token."""
    return tiny_qwen3_vl(folder, 'qwen3_vl_moe', **_EXPERTS)


def tiny_qwen3_5(folder, kind='qwen3_5', **text):
    """A random Qwen3.5 with two layers of gated DeltaNet, one of attention, and one more."""
    layers = ['linear_attention', 'linear_attention', 'full_attention', 'linear_attention']
    rope = dict(rope_type='default', rope_theta=1e4, mrope_section=[3, 3, 2],
                partial_rotary_factor=0.25)
    return tiny_qwen3_vl(folder, kind, layer_types=layers, rope_parameters=rope,
                         linear_num_key_heads=2, linear_num_value_heads=4,
                         linear_key_head_dim=32, linear_value_head_dim=32, **text)


def tiny_qwen3_5_moe(folder):
    """The same with eight experts in each layer, and one that every token uses."""
    return tiny_qwen3_5(folder, 'qwen3_5_moe', **_EXPERTS, shared_expert_intermediate_size=96)


def tiny_glm4v_moe(folder):
    """A random GLM-4.5V whose first layer is dense, for images of 224 pixels."""
    return tiny_glm4v(folder, 'glm4v_moe', moe_intermediate_size=96, n_routed_experts=8,
                      n_shared_experts=1, num_experts_per_tok=4, first_k_dense_replace=1, n_group=1,
                      topk_group=1)


OTHERS = {'Qwen3-VL': tiny_qwen3_vl, 'Qwen3-VL-MoE': tiny_qwen3_vl_moe, 'GLM-4.1V': tiny_glm4v,
          'Qwen3.5': tiny_qwen3_5, 'Qwen3.5-MoE': tiny_qwen3_5_moe, 'GLM-4.5V': tiny_glm4v_moe}
"""Name of a family -> makes a folder with a random policy for images of 224 pixels."""


def segmentor(pretrained, policy=None, loss=None, **train_cfg):
    """A segmentor in training mode, with its reference."""
    model = MODELS.build(dict(
        type='ReasoningSegmentor', train_cfg=train_cfg, loss=dict(loss or {}, type='GRPOLoss'),
        policy=dict(type='VLMReasoningHead', pretrained=pretrained,
                    prompt_template='find "{question}"', **(policy or {}))))
    model.build_reference()
    return model.train()


def synthetic_rollout(model, side, prompts, group_size, length):
    """A rollout of random tokens, and the workload that it is."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
              for _ in range(prompts)]
    encoded = model.policy.encode_prompts(images, ['the red circle'] * prompts)
    rows = prompts * group_size
    rollout = RolloutBatch(
        data_samples=[None] * prompts, model_images=images, prompts=encoded,
        group_size=group_size, texts=[''] * rows, parsed=[None] * rows,
        response_ids=torch.randint(0, 500, (rows, length), generator=generator),
        response_mask=torch.ones(rows, length, dtype=torch.bool),
        truncated=torch.zeros(rows, dtype=torch.bool),
        advantages=torch.randn(prompts, group_size, generator=generator))
    return rollout, Workload(prompts, group_size, len(encoded[0]), length,
                             ImageInputs.of(encoded[0]))


def synthetic_conversations(model, side, prompts, group_size, length, turns=2):
    """The same of conversations with turns of this length and an image in each reply."""
    rollout, work = synthetic_rollout(model, side, prompts, group_size, turns * length)
    encode = ReplyEncoder(model.policy.encoder)
    crop = torch.randint(0, 256, (3, side, side), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(1))
    reply = encode('This is that part of the image.', crop)
    rows = []
    for ids in rollout.response_ids:
        first, *later = ids.split(length)
        rows.append(torch.cat([first, *(part for turn in later for part in (
            reply.input_ids, turn))]))
    rollout.response_ids = torch.stack(rows)
    mask = torch.ones(rollout.response_ids.shape, dtype=torch.bool)
    for turn in range(turns - 1):
        start = (turn + 1) * length + turn * len(reply)
        mask[:, start:start + len(reply)] = False
    rollout.response_mask = mask
    rollout.replies = [[encode('This is that part of the image.', crop)
                        for _ in range(turns - 1)] for _ in rows]
    return rollout, replace(work, turns=turns, reply_tokens=(turns - 1) * len(reply),
                            reply_images=float(turns - 1), reply_image=ImageInputs.of(reply))


def ask_for_all_of_the_image(monkeypatch):
    """Make each turn of a conversation but the last one a call, although none ends by itself."""
    monkeypatch.setattr(conversations, 'read_turn', lambda text: Zoom((0., 0., 112., 112.)))
    monkeypatch.setattr(conversations, '_ending',
                        lambda found, cut_off, is_last: 'turns' if is_last else '')


def measure_update(model, rollout, amp=False, steps=2, accumulate=1, optimizer=None):
    """Peaks of ``steps`` optimizer steps: {'forward and backward', 'optimizer step'} in bytes, the
    larger of the steps (the optimizer state is there from the second on)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=1e-6, foreach=True)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulate)
    wrapper.initialize_count_status(model, 0, steps * accumulate)
    tracker = StorageTracker([*model.parameters(), *model.buffers()])
    peaks = {}

    def note(name):
        peaks[name] = max(peaks.get(name, 0), tracker.peak)
        tracker.peak = tracker.now

    with tracker:
        for _ in range(steps * accumulate):
            with torch.autocast('cpu', torch.bfloat16) if amp else nullcontext():
                loss = model.loss(rollout)['loss']
            note('forward')
            wrapper.backward(wrapper.scale_loss(loss))
            note('backward')
            if wrapper.should_update():
                wrapper.step()
                wrapper.zero_grad()
                note('optimizer step')
    return peaks


def shape_of(model):
    return PolicyShape.of(model.policy.model.config)
