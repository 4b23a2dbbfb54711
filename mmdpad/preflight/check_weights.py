# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Check that the files of a config's models exist and are complete, without loading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from mmdpad.engine.config_nodes import Node
from mmdpad.engine.refusals import REFUSALS, describe_refusal
from mmdpad.engine.signatures import missing_arguments
from mmdpad.models import VLMReasoningHead
from mmdpad.models.adapter_folder import find_adapter
from mmdpad.models.cost.fake_policy import build_on_meta
from mmdpad.models.decoders import DetectorDecoder, SAMDecoder
from mmdpad.models.decoders.hf_sam_decoder import HFSAMDecoder
from mmdpad.models.discriminators import CLIPDiscriminator
from mmdpad.models.discriminators.open_clip_loading import (
    check_open_clip,
    find_missing_download,
)
from mmdpad.models.folder_files import check_weights_file
from mmdpad.models.heads.lora import add_lora
from mmdpad.models.heads.named_weights import check_handover
from mmdpad.models.heads.policy_source import policy_problems
from mmdpad.models.heads.quantization import read_quantization
from mmdpad.models.rollouts.vllm_client import ServerError
from mmdpad.models.rollouts.weight_transfer import WeightTransferError
from mmdpad.models.sources import find_folder
from mmdpad.registry import HOOKS, MODELS, REWARDS, ROLLOUTS, WEIGHT_INITIALIZERS

FILE_ARGUMENTS = ('pretrained', 'checkpoint')
"""Arguments of classes that name their weights."""
_WEIGHTS = ('.pth', '.pt', '.safetensors')
_WITH_FILES = (MODELS, REWARDS, HOOKS, WEIGHT_INITIALIZERS)


def check_weights(node: Node) -> Iterator[str]:
    """Find problems with a model's files. Nodes that lack a required argument are skipped.

    Of a class without a check of its own, such as a reward term with a model, these are the weights
    files that its arguments name.
    """
    checks = [check for kind, check in _CHECKS.items() if node.is_kind(kind)]
    if checks and missing_arguments(node.kind, node.entry):
        return
    for check in checks or [_named_files]:
        yield from (f'`{node.path}`: {problem}' for problem in check(node))


def handover_problems(policy: Mapping[str, Any], path: str) -> Iterator[str]:
    """Report why an engine with its own copy of the weights cannot take over the policy's.

    The policy is built without its weights.

    Args:
        policy: ``model.policy`` of a config, with no other problems.
        path: The engine's path in the config.

    Yields:
        One line, or nothing.
    """
    source = str(find_folder(policy['pretrained']))
    model = build_on_meta(AutoConfig.from_pretrained(source, trust_remote_code=False))
    try:
        if policy.get('lora') is not None:
            add_lora(model, policy['lora'])
        check_handover(model, bool(policy.get('quantization') or read_quantization(source)))
    except ValueError as error:
        yield f'`{path}`: {error}'


def server_problems(node: Node, policy: Mapping[str, Any], images: int,
                    responses: int) -> Iterator[str]:
    """Ask the servers of a :class:`VLLMServerRollout`, and report why they cannot serve a policy.

    Args:
        node: The engine, with arguments that fit.
        policy: See :func:`handover_problems`.
        images: Maximum number of images in a prompt.
        responses: Maximum number of tokens in a response, or after the prompt of a conversation.

    Yields:
        One line, or nothing.
    """
    source = str(find_folder(policy['pretrained']))
    model = AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
    try:
        engine = ROLLOUTS.build(node.entry)
        engine.check_servers(model)
        if engine.max_model_len <= responses:
            yield (f'`{node.path}`: servers should take a prompt and a response, of up to '
                   f'{responses} tokens, but one takes {engine.max_model_len} in all; start it by '
                   f"`mmdpad serve-rollouts CONFIG` with this run's --cfg-options")
        elif engine.max_images < images:
            yield (f'`{node.path}`: servers should take prompts of {images} images, those of '
                   f'conversations, but one takes {engine.max_images}; start it by `mmdpad '
                   f"serve-rollouts CONFIG` with this run's --cfg-options")
    except REFUSALS as error:
        yield describe_refusal(node.path, node.entry, error)
    except ImportError as error:
        yield f'`{node.path}`: {error}'
    except (ServerError, WeightTransferError) as error:
        yield f'`{node.path}`: {" ".join(str(error).splitlines())}'


def _find(entry: dict, example: str = 'NAME') -> tuple[str, list[str]]:
    """Find the folder of a model, such as ``example`` of the hub, and the problems with it; one of
    the two is empty."""
    source = entry['pretrained']
    try:
        adapter = find_adapter(source)
    except ValueError as error:
        return '', [str(error)]
    if adapter:
        return '', [f'`pretrained` should be a folder with a complete model, but {source!r} holds '
                    f'only an adapter; {adapter.advice}']
    if (folder := find_folder(source)) is None:
        return '', [f'`pretrained` should be a folder with the model, but {source!r} is neither a '
                    f'folder here nor in the hub cache; download it: `hf download '
                    f'{example} --local-dir {source}`, or correct the path']
    return str(folder), []


def _policy(node: Node) -> Iterator[str]:
    source, problems = _find(node.entry)
    yield from problems or policy_problems({**node.entry, 'pretrained': source})


def _hf_sam(node: Node) -> Iterator[str]:
    source, problems = _find(node.entry, node.kind.example)
    if source:
        try:
            node.kind.check_folder(source)
        except (OSError, ValueError) as error:
            problems = str(error).splitlines()
    yield from problems


def _checkpoint(node: Node) -> Iterator[str]:
    entry = node.entry
    if entry.get('checkpoint') is None:
        if not entry.get('allow_random'):
            yield '`checkpoint` should be a file, but got None; set it'
    elif problem := check_weights_file(Path(entry['checkpoint']).expanduser()):
        yield problem


def _named_files(node: Node) -> Iterator[str]:
    """Local weights files, in the arguments that replacements for ``--smoke`` go by as well."""
    for name in FILE_ARGUMENTS if node.registry in _WITH_FILES else ():
        given = node.entry.get(name)
        if isinstance(given, str) and given.endswith(_WEIGHTS) and '://' not in given and (
                problem := check_weights_file(Path(given).expanduser())):
            yield f'`{name}`: {problem}'


def _clip(node: Node) -> Iterator[str]:
    entry = node.entry
    try:
        name, tag, file = check_open_clip(entry['model_name'], entry.get('pretrained', 'openai'),
                                          entry.get('allow_random', False))
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
    else:
        if file and (problem := check_weights_file(Path(file))):
            yield problem
        if problem := find_missing_download(name, tag):
            yield problem


_CHECKS: dict[type, Callable[[Node], Iterator[str]]] = {
    VLMReasoningHead: _policy, HFSAMDecoder: _hf_sam, SAMDecoder: _checkpoint,
    DetectorDecoder: _checkpoint, CLIPDiscriminator: _clip}
