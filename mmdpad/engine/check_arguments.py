# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that every `type` in a config is known and accepts its arguments."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.evaluation import RefSegMetric as RefSegMetricOfMMDet
from mmengine.dataset import BaseDataset
from mmengine.registry import FUNCTIONS
from mmengine.runner import Priority, get_priority
from torch import nn

from mmdpad.models import ConceptAgent, ReasoningSegmentor, VLMReasoningHead
from mmdpad.models.decoders import ConceptDecoder, DetectorDecoder, HFSAMDecoder, SAMDecoder
from mmdpad.models.decoders.concept_decoder import check_concept
from mmdpad.models.decoders.hf_sam_decoder import check_settings
from mmdpad.models.decoders.sam_decoder import check_name
from mmdpad.models.discriminators import CLIPDiscriminator
from mmdpad.models.discriminators.open_clip_loading import check_precision
from mmdpad.models.heads.attention_support import check_attention
from mmdpad.models.heads.lora import lora_config
from mmdpad.models.heads.prompt_encoder import check_max_prompt_tokens
from mmdpad.models.heads.quantization import quantization_config
from mmdpad.models.heads.recomputation import check_memory_budget
from mmdpad.models.precision import find_wrong_dtype
from mmdpad.models.rollouts import RolloutEngine, VLLMServerRollout
from mmdpad.models.rollouts.weight_transfer import WeightTransfer
from mmdpad.models.segmentors.concept_agent import check_limits
from mmdpad.models.segmentors.settings import (
    TRAIN_CFG,
    evaluation_sampling,
    missing_type,
    not_a_policy_loss,
    training_sampling,
)
from mmdpad.models.weights import first_line
from mmdpad.registry import (
    DATA_SAMPLERS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    REWARDS,
    ROLLOUTS,
    TASKS,
    TRANSFORMS,
    VISBACKENDS,
    resolve,
)
from mmdpad.rewards import DiscriminativeOptions, DiscriminativeReward, Place, build_term
from mmdpad.rl import PolicyLoss
from mmdpad.tasks import check_task_arguments, task_arguments
from mmdpad.utils import renamed
from mmdpad.utils.argument_types import find_wrong_types, read_defaults

from .config_nodes import Node
from .signatures import known_arguments, missing_arguments

# Keys that mmengine or the reward composition removes before a class is built.
TAKEN_OUT = {'type', '_scope_', 'priority', 'weight', 'optimizer', 'constructor',
              'paramwise_cfg', 'convert_to_iter_based'}
# mmengine takes `_delete_` out only where an inherited dict is replaced.
_NOTHING_TO_DELETE = ('remove it, since there is no inherited dict for it to delete (in the pure '
                      'Python style, assign a new dict instead)')
# Arguments passed to a class in addition to its config.
_GIVEN = {'runner', 'dataloader', 'evaluator', 'dataset', 'save_dir'}
# Built to check their arguments, since building them loads nothing.
_LIGHT = (HOOKS, TRANSFORMS, METRICS, ROLLOUTS, TASKS)
_LIGHT_METRICS_OF_MMDET = (CocoMetric, RefSegMetricOfMMDet)
_OURS = 'mmdpad.'
# Packages with correct annotations, except for `_MISANNOTATED`; elsewhere in mmdet, annotations
# contradict mmdet's own configs.
_ANNOTATED = (_OURS, 'mmengine.', 'torch.optim.', 'mmdet.visualization.')
_ANNOTATED_DATASETS = (*_ANNOTATED, 'mmdet.datasets.')
_MISANNOTATED = {'AmpOptimWrapper': ('loss_scale', ), 'DetLocalVisualizer': ('vis_backends', )}
_BASE_DATASET = set(inspect.signature(BaseDataset).parameters)
# Errors that classes raise for wrong settings.
REFUSALS = (TypeError, ValueError, LookupError, AttributeError, AssertionError)


def check_node(node: Node, wrong_arguments: Sequence[str]) -> Iterator[str]:
    """Yield the problems with the type and the arguments of one node.

    Args:
        node: The node.
        wrong_arguments: The result of :func:`find_wrong_arguments`, which is included.
    """
    kind = node.kind
    if kind is None:
        yield _unknown_type(node)
        return
    module = getattr(kind, '__module__', '') or ''
    wrong = list(wrong_arguments)
    scope = node.entry.get('_scope_')
    if not isinstance(scope, str | None):
        wrong.append(f'`{node.path}._scope_` should be the scope of a registry, such as '
                     f"'mmdet', but got {scope!r}; correct it")
    if _is_annotated(node):
        wrong = [*_check_names(node, kind), *wrong]
    elif node.registry is FUNCTIONS and inspect.isfunction(kind):
        wrong = [*unknown_keys(node.entry.keys() - TAKEN_OUT, inspect.signature(kind).parameters,
                               node.path, kind.__name__)]
    if node.registry is REWARDS:
        def placed(weight: float = 1.0, tasks: Sequence[str] | None = None) -> None: ...

        wrong += find_wrong_types(placed, node.entry, node.path)
    if node.registry is HOOKS and 'priority' in node.entry:
        try:
            get_priority(node.entry['priority'])
        except REFUSALS:
            wrong.append(f'`{node.path}.priority` should be an int in [0, 100] or one of '
                         f'{", ".join(Priority.__members__)}, but got '
                         f'{node.entry["priority"]!r}; correct it')
    if hasattr(kind, 'as_term') and not module.startswith(_OURS):
        # A custom hook may load anything when it is built, so its term is checked instead.
        term = Node(node.path, kind.as_term(node.entry)[1], REWARDS, node.scope)
        wrong += check_node(term, list(find_wrong_arguments(term)))
    yield from wrong
    build = _builder(node, kind, module)
    if build is not None and not wrong:
        try:
            made = build(_without_files(node.entry))
        except ImportError:  # a missing package is reported elsewhere
            pass
        except (*REFUSALS, RuntimeError) as error:
            yield describe_refusal(node.path, node.entry, error)
        else:
            if inspect.isclass(kind) and not module.startswith(_OURS) and (
                    known_arguments(kind) is None):
                yield from _check_passed_on(made, node)


def find_wrong_arguments(node: Node) -> Iterator[str]:
    """Yield the problems with the types of a class's arguments, and with arguments that configure
    something else."""
    kind = node.kind
    if _is_annotated(node):
        given = {name: value for name, value in node.entry.items()
                 if name not in _MISANNOTATED.get(kind.__name__, ())}
        wrong = list(find_wrong_types(kind, given, node.path))
    elif inspect.isclass(kind) and issubclass(kind, BaseDataset):
        # Data sets of other packages hand these on to mmengine, whose annotations are correct.
        wrong = list(find_wrong_types(BaseDataset, {
            name: value for name, value in node.entry.items() if name in _BASE_DATASET}, node.path))
    else:
        return
    yield from wrong
    for part, check in _SETTINGS.items():
        if issubclass(kind, part) and not wrong:
            yield from check(node.entry, node.path)


def _is_annotated(node: Node) -> bool:
    if not inspect.isclass(node.kind):
        return False
    # Other packages' models add and remove arguments of their parts before building them.
    known = (_OURS, ) if node.registry is MODELS else (
        _ANNOTATED_DATASETS if node.is_kind(BaseDataset) else _ANNOTATED)
    return node.kind.__module__.startswith(known)


def check_place(item: Any, where: str, type_optional: bool = False,
                example: str = 'NAME') -> Iterator[str]:
    """Yield the problems with a value that should be a dict with a ``type``, or an object built
    from one. ``example`` is a ``type`` to add."""
    if isinstance(item, Mapping):
        kind = item.get('type')
        if 'type' not in item and not type_optional:
            yield missing_type(where, example)
        elif 'type' in item and not (isinstance(kind, str) or callable(kind)):
            yield (f'`{where}.type` should be the name of a class, but got {kind!r}; correct it')
    elif where.endswith('._delete_'):
        yield f'`{where}`: {_NOTHING_TO_DELETE}'
    elif item is None or isinstance(item, (str, int, float, list, tuple)):
        yield (f'`{where}` should be a dict with a `type`, but got {item!r}; on a command line: '
               f"'{where}=dict(type=NAME)'")


def describe_refusal(path: str, entry: Mapping[str, Any], error: BaseException) -> str:
    """The key of a config entry and the message of the error that a class raised for it."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = re.sub(r'^class `\w+` in \S+: ', '', first_line(Exception(text)))
    named = re.match(r'`([\w.]+)` ', line)
    if named and named[1].partition('.')[0] in entry:
        return f'`{path}.{line[1:]}'
    return f'`{path}`: {line}'


def unknown_keys(given: Iterable[str], known: Iterable[str], path: str, taker: str,
                 kind: str = 'argument') -> Iterator[str]:
    """Yield a sentence for each unknown key that lists the known ones. ``kind`` is that of an old
    name in :mod:`mmdpad.utils.renamed`."""
    known = set(known)
    for name in sorted(set(given) - known, key=str):
        close = difflib.get_close_matches(str(name), sorted(known), n=1)
        advice = renamed.advice(kind, name) or (
            _NOTHING_TO_DELETE if name == '_delete_' else
            f'did you mean `{close[0]}`?' if close else 'correct or remove it')
        yield (f'`{path}.{name}`: {taker} takes no argument {name!r}, but '
               f'{", ".join(sorted(known - _GIVEN))}; {advice}')


def _builder(node: Node, kind: Any, module: str) -> Callable[[dict], Any] | None:
    if inspect.isclass(kind) and (issubclass(kind, PolicyLoss) or node.registry in _LIGHT and (
            module.startswith((_OURS, 'mmengine.'))
            or issubclass(kind, _LIGHT_METRICS_OF_MMDET))):
        return lambda entry: kind(**{
            k: v for k, v in entry.items() if k not in ('type', '_scope_', 'priority')})
    if node.registry is REWARDS and module.startswith(_OURS):
        return lambda entry: build_term(Place.of(entry).term)
    return None


def _check_passed_on(made: Any, node: Node) -> Iterator[str]:
    """Check the arguments that a class keeps in the config of another class, which it builds only
    after the run has started, as ``EMAHook`` does."""
    own = inspect.signature(node.kind).parameters
    given = {name: value for name, value in node.entry.items()
             if name not in own and name not in TAKEN_OUT}
    for config in vars(made).values():
        if not (isinstance(config, Mapping) and {'type', *given} <= config.keys()):
            continue
        key = next((name for name, one in own.items()
                    if node.entry.get(name, one.default) == config['type']), 'type')
        inner = Node(node.path, dict(config), MODELS, node.scope)
        if inner.kind is None:
            yield _unknown_type(inner, key)
            continue
        if (known := known_arguments(inner.kind)) is not None:
            known = (known | own.keys()) - {'kwargs', 'model'}
            wrong = [*unknown_keys(given, known, node.path, node.kind.__name__)]
            wrong += find_wrong_types(inner.kind, given, node.path)
            yield from wrong
            if not wrong and missing_arguments(inner.kind, given) == ['model']:
                try:
                    inner.kind(nn.Linear(1, 1), **given)
                except REFUSALS as error:
                    yield describe_refusal(node.path, node.entry, error)


def _without_files(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without annotation files and discriminators, which are checked separately."""
    made: dict[str, Any] = {}
    for key, value in entry.items():
        if key == 'discriminator' and value:
            value = dict(type='torch.nn.Identity')
        elif isinstance(value, Mapping):
            value = _without_files(value)
        if key != 'ann_file':
            made[key] = value
    return made


def _unknown_type(node: Node, key: str = 'type') -> str:
    name = node.entry['type']
    if not isinstance(name, str):
        return (f'`{node.path}.{key}` should be the name of a registered {node.registry.name}, but '
                f'got {name!r}; correct it')
    places = [node.registry]
    while places[-1].parent is not None:
        places.append(places[-1].parent)
    names = sorted({name for place in places for name in place.module_dict})
    # If the name is registered anyway, it is ours, and the config has another scope.
    close = [f'mmdpad.{name}'] if name in names else difflib.get_close_matches(name, names, n=3)
    advice = renamed.advice('type', name) or (
        f'did you mean {" or ".join(close)}?' if close else
        'import the module that registers it with `custom_imports`, or correct it')
    return (f'`{node.path}.{key}` should be a registered {node.registry.name}, but got {name!r}; '
            f'{advice}')


def _check_names(node: Node, kind: type) -> Iterator[str]:
    """Yield the unknown and the missing arguments of a class."""
    known = known_arguments(kind)
    given = node.entry.keys() - TAKEN_OUT - ({'tasks'} if node.registry is REWARDS else set())
    if known is not None:
        yield from unknown_keys(given, known, node.path, kind.__name__)
    if not kind.__module__.startswith(_OURS):
        return  # mmengine passes further arguments to its own classes
    extra = _GIVEN if node.registry in (LOOPS, DATA_SAMPLERS, VISBACKENDS) else ()
    for name in missing_arguments(kind, {*given, *extra}):
        yield f'`{node.path}`: {kind.__name__} needs the argument {name!r}; add it'


def _check_policy(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    if 'dtype' in entry and (problem := find_wrong_dtype(f'{path}.dtype', entry['dtype'])):
        yield problem
    yield from _refusal(lambda name: check_attention(name, entry.get('dtype', 'float32')),
                        'attn_implementation')(entry, path)
    yield from _refusal(check_memory_budget, 'memory_budget')(entry, path)
    yield from _refusal(check_max_prompt_tokens, 'max_prompt_tokens')(entry, path)
    lora, quantization = entry.get('lora'), entry.get('quantization')
    if lora is not None and find_spec('peft'):
        from peft import LoraConfig
        if wrong := list(find_wrong_types(LoraConfig, lora, f'{path}.lora')):
            yield from wrong
            return
    for name, given, read in (('lora', lora, lora_config),
                              ('quantization', quantization,
                               lambda given: quantization_config(given, lora))):
        if given is not None:
            try:
                read(given)
            except REFUSALS as error:
                own = f'`{name}' in str(error)
                yield describe_refusal(path if own else f'{path}.{name}', entry if own else given,
                                       error)
            except ImportError:
                pass  # a missing package is reported elsewhere


def _check_segmentor(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in ('policy', 'decoder', 'rollout_engine', 'loss'):
        if name in entry and not (name == 'decoder' and entry[name] is None):
            default = read_defaults(ReasoningSegmentor)[name]
            yield from check_place(entry[name], f'{path}.{name}', example=(
                default['type'] if isinstance(default, dict) else 'NAME'))
    tasks = entry.get('tasks')
    for name, task in tasks.items() if isinstance(tasks, Mapping) else ():
        yield from check_place(task, f'{path}.tasks.{name}', example='SegmentationTask')
    try:
        check_task_arguments(tasks, **task_arguments(entry))
    except REFUSALS as error:
        yield describe_refusal(path, entry, error)
    loss = entry.get('loss')
    kind = resolve(loss, MODELS) if isinstance(loss, Mapping) else None
    if inspect.isclass(kind) and not issubclass(kind, PolicyLoss):
        yield not_a_policy_loss(f'{path}.loss', kind)
    train, test = entry.get('train_cfg') or {}, entry.get('test_cfg') or {}
    known = set(inspect.signature(RolloutEngine.__call__).parameters) - {
        'self', 'head', 'prompts', 'group_size', 'prompt_numbers'}
    yield from unknown_keys(test, known, f'{path}.test_cfg', 'sampling')
    yield from unknown_keys(train, TRAIN_CFG, f'{path}.train_cfg', 'sampling', 'sampling')
    train = {name: value for name, value in train.items() if name in TRAIN_CFG}
    for name, given, read in (('train_cfg', train, training_sampling),
                              ('test_cfg', test, evaluation_sampling)):
        wrong = list(find_wrong_types(RolloutEngine.__call__, given, f'{path}.{name}'))
        yield from wrong
        if not wrong:
            try:
                read(given)
            except REFUSALS as error:
                yield describe_refusal(path, entry, error)


def _check_engine(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    kind = resolve(entry, ROLLOUTS)
    for name in sorted(entry.get('engine_options') or ()):
        if name in inspect.signature(kind).parameters:
            yield (f'`{path}.engine_options.{name}` should be an argument of `{kind.__name__}` '
                   f'itself; move it to `{path}.{name}`')
    if issubclass(kind, VLLMServerRollout) and (given := entry.get('transfer')):
        yield from unknown_keys(given, inspect.signature(WeightTransfer).parameters,
                                f'{path}.transfer', 'WeightTransfer')
        yield from find_wrong_types(WeightTransfer, given, f'{path}.transfer')


def _check_discriminative(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    given = {name: value for name, value in entry.items()
             if name not in (*TAKEN_OUT, 'tasks', 'discriminator', 'device')}
    known = inspect.signature(DiscriminativeOptions).parameters
    wrong = [*unknown_keys(given, {*known, 'discriminator', 'device'}, path,
                           'DiscriminativeReward'),
             *find_wrong_types(DiscriminativeOptions, given, path)]
    yield from wrong
    if not wrong:
        try:
            DiscriminativeOptions(**given)
        except REFUSALS as error:
            yield describe_refusal(path, entry, error)


def _refusal(check: Callable[..., object], *names: str) -> Callable[..., Iterator[str]]:
    """Make a check of one argument, or of several by their names, from a function that raises."""
    def problems(entry: Mapping[str, Any], path: str) -> Iterator[str]:
        if given := {name: entry[name] for name in names if name in entry}:
            try:
                check(**given) if len(names) > 1 else check(*given.values())
            except REFUSALS as error:
                yield describe_refusal(path, entry, error)
            except ImportError:
                pass  # a missing package is reported elsewhere
    return problems


def _check_dataset(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, folder in (entry.get('data_prefix') or {}).items():
        if not isinstance(folder, str | None):
            yield (f'`{path}.data_prefix.{name}` should be a folder, but got {folder!r}; '
                   'correct it')


def _check_detector(entry: Mapping[str, Any], path: str) -> Iterator[str]:
    config = entry.get('config')
    if isinstance(config, Mapping):
        for name in ('model', 'test_dataloader'):
            if not isinstance(config.get(name), Mapping):
                yield (f'`{path}.config.{name}` should be a dict, as in the config of a detector, '
                       f'but got {config.get(name)!r}; use such a config instead')


_SETTINGS: dict[type, Callable[[Mapping[str, Any], str], Iterator[str]]] = {
    BaseDataset: _check_dataset, VLMReasoningHead: _check_policy, RolloutEngine: _check_engine,
    ReasoningSegmentor: _check_segmentor, DiscriminativeReward: _check_discriminative,
    DetectorDecoder: _check_detector, SAMDecoder: _refusal(check_name, 'model'),
    HFSAMDecoder: _refusal(check_settings, 'dtype', 'max_hole_area', 'max_sprinkle_area'),
    ConceptAgent: _refusal(check_limits, 'max_rounds', 'max_instances'),
    ConceptDecoder: _refusal(check_concept, 'text', 'score_thr', 'min_iou'),
    CLIPDiscriminator: _refusal(check_precision, 'precision')}
