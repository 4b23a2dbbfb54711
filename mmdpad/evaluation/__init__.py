# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from . import metrics
from .mean_datasets_evaluator import MeanDatasetsEvaluator
from .metrics import *  # noqa: F403

__all__ = ['MeanDatasetsEvaluator', 'metrics', *metrics.__all__]
