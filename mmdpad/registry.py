# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where a config's ``type='Name'`` is looked up.

Every registry is a child of mmdet's, so with ``default_scope='mmdpad'`` a config finds our
classes, mmdet's and mmengine's without a prefix; from a config whose scope is mmdet, ours are
``mmdpad.Name``. ``locations`` lets mmengine import the module that registers a name on demand.
"""

from mmdet import registry as _mmdet
from mmengine.registry import INFERENCERS as INFERENCERS_OF_MMENGINE
from mmengine.registry import STRATEGIES as STRATEGIES_OF_MMENGINE
from mmengine.registry import Registry


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    # A registry searches its ancestors' names but does not import their modules: name them here.
    return Registry(name, parent=parent, scope='mmdpad',
                    locations=[*parent._locations, *locations])


MODELS = _child('model', _mmdet.MODELS, 'mmdpad.models')
DATASETS = _child('dataset', _mmdet.DATASETS, 'mmdpad.datasets.registered')
TRANSFORMS = _child('transform', _mmdet.TRANSFORMS, 'mmdpad.datasets.transforms')
DATA_SAMPLERS = _child('data sampler', _mmdet.DATA_SAMPLERS, 'mmdpad.datasets.samplers')
METRICS = _child('metric', _mmdet.METRICS, 'mmdpad.evaluation')
HOOKS = _child('hook', _mmdet.HOOKS, 'mmdpad.engine.hooks')
LOOPS = _child('loop', _mmdet.LOOPS, 'mmdpad.engine.runner')
INFERENCERS = _child('inferencer', INFERENCERS_OF_MMENGINE,
                     'mmdpad.apis.reason_seg_inferencer')
STRATEGIES = _child('strategy', STRATEGIES_OF_MMENGINE, 'mmdpad.engine.strategies')
LOG_PROCESSORS = _child('log_processor', _mmdet.LOG_PROCESSORS, 'mmdpad.engine.runner')
# Kinds of parts that mmdpad adds nothing to: a config of our scope finds mmdet's and mmengine's.
RUNNERS = _child('runner', _mmdet.RUNNERS)
RUNNER_CONSTRUCTORS = _child('runner constructor', _mmdet.RUNNER_CONSTRUCTORS)
WEIGHT_INITIALIZERS = _child('weight initializer', _mmdet.WEIGHT_INITIALIZERS)
MODEL_WRAPPERS = _child('model_wrapper', _mmdet.MODEL_WRAPPERS)
OPTIMIZERS = _child('optimizer', _mmdet.OPTIMIZERS)
OPTIM_WRAPPERS = _child('optim_wrapper', _mmdet.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child('optimizer wrapper constructor',
                                    _mmdet.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child('parameter scheduler', _mmdet.PARAM_SCHEDULERS)
EVALUATOR = _child('evaluator', _mmdet.EVALUATOR)
TASK_UTILS = _child('task util', _mmdet.TASK_UTILS)
VISUALIZERS = _child('visualizer', _mmdet.VISUALIZERS)
VISBACKENDS = _child('vis_backend', _mmdet.VISBACKENDS)
# Kinds that mmdet does not know. The discriminative term holds a model, hence two places.
REWARDS = Registry('reward', scope='mmdpad', locations=['mmdpad.rewards', 'mmdpad.models'])
ROLLOUTS = Registry('rollout', scope='mmdpad', locations=['mmdpad.models'])
