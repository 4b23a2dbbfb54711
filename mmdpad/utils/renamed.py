# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Names from before 0.1.0 that a config may still use, with their new names."""

from __future__ import annotations

import re

RENAMED: dict[str, dict[str, str]] = {
    # Registered classes.
    'type': dict(
        AnswerPictureHook='ReasonSegVisualizationHook', AnswerStoreHook='ResponseCacheHook',
        ChainLengthReward='ReasoningLengthReward', PlainCheckpointHook='SafeCheckpointHook',
        PromptResize='ModelImageResize'),
    'argument': dict(
        chain_share='length_share', compile='cuda_graphs', updates_per_rollout='num_iterations'),
    # Keys of `model.train_cfg` that a loss has now.
    'sampling': {
        **{name: f'model.loss.{name}' for name in (
            'aggregation', 'clip_ratio', 'clip_ratio_high', 'entropy_coef', 'importance_cap',
            'kl_coef', 'kl_estimator', 'kl_in', 'mask_truncated', 'ratio_level', 'surrogate')},
        'truncated': "model.loss.mask_truncated (True for 'mask', False for 'count')"},
    # Keys of `default_hooks`.
    'default hook': dict(answers='response_cache', plain_checkpoint='safe_checkpoint'),
    # Variables of the shipped base configs, as in `_base_.prompt_size`.
    'variable': dict(prompt_size='model_image_size'),
    # Names in results, for `save_best` and `monitor`, after a prefix.
    'metric': dict(think_tokens='reasoning_tokens'),
    # Names in a training log.
    'log': dict(flat_groups='frac_reward_zero_std', think_tokens='reasoning_tokens'),
    # Names of alarms, for `AlarmHook.stop`.
    'alarm': dict(chain_collapses='reasoning_collapses', chain_vanishes='reasoning_vanishes'),
    # Modules with everything in them; the longest entry counts.
    'module': {
        'mmdpad.cli.doctor.try_miniature': 'mmdpad.cli.doctor.try_toy',
        'mmdpad.datasets.shapes_world': 'mmdpad.toy.shapes_world',
        'mmdpad.datasets.transforms.images': 'mmdpad.datasets.images',
        'mmdpad.datasets.transforms.prompt_frame': 'mmdpad.datasets.transforms.model_image',
        'mmdpad.datasets.transforms.targets': 'mmdpad.geometry.targets',
        'mmdpad.engine.cost': 'mmdpad.preflight.cost',
        'mmdpad.engine.hooks.answer_picture_hook':
            'mmdpad.engine.hooks.reason_seg_visualization_hook',
        'mmdpad.engine.hooks.answer_store_hook': 'mmdpad.engine.hooks.response_cache_hook',
        'mmdpad.engine.hooks.plain_checkpoint_hook': 'mmdpad.engine.hooks.safe_checkpoint_hook',
        'mmdpad.engine.trial': 'mmdpad.preflight',
        'mmdpad.engine.trial.made_data': 'mmdpad.preflight.synthetic_data',
        'mmdpad.engine.trial.rehearsed_rollout': 'mmdpad.preflight.scripted_rollout',
        'mmdpad.engine.trial.small_detectors': 'mmdpad.preflight.tiny_detectors',
        'mmdpad.engine.trial.stand_ins': 'mmdpad.preflight.tiny_replacements',
        'mmdpad.evaluation.caption_scores': 'mmdpad.analysis.caption_scores',
        'mmdpad.evaluation.chain_reward': 'mmdpad.analysis.reward_by_length',
        'mmdpad.evaluation.comparison': 'mmdpad.analysis.comparison',
        'mmdpad.evaluation.discriminator_check': 'mmdpad.analysis.discriminator_check',
        'mmdpad.evaluation.functional': 'mmdpad.geometry',
        'mmdpad.evaluation.functional.bootstrap': 'mmdpad.evaluation.bootstrap',
        'mmdpad.evaluation.functional.seeds': 'mmdpad.analysis.seeds',
        'mmdpad.evaluation.responses': 'mmdpad.analysis.responses',
        'mmdpad.evaluation.stored_masks': 'mmdpad.analysis.stored_masks',
        'mmdpad.evaluation.study': 'mmdpad.analysis.study',
        'mmdpad.models.decoders.sam2_decoder': 'mmdpad.models.decoders.hf_sam_decoder',
        'mmdpad.models.decoders.sam3_decoder': 'mmdpad.models.decoders.hf_sam_decoder',
        'mmdpad.models.decoders.sam_hq_decoder': 'mmdpad.models.decoders.hf_sam_decoder',
        'mmdpad.models.discriminators.discriminative_reward': 'mmdpad.rewards.discriminative_term',
        'mmdpad.models.discriminators.regions': 'mmdpad.geometry.regions',
        'mmdpad.models.discriminators.sharing': 'mmdpad.rewards.sharing',
        'mmdpad.models.in_parts': 'mmdpad.models.retry_on_oom',
        'mmdpad.prompts.coordinates': 'mmdpad.geometry.coordinates',
        'mmdpad.testing': 'mmdpad.toy',
        'mmdpad.utils.masks': 'mmdpad.geometry.masks',
        'mmdpad.utils.plain_pickle': 'mmdpad.utils.safe_pickle',
        'mmdpad.utils.plain_yaml': 'mmdpad.utils.safe_yaml',
        'mmdpad.utils.provenance': 'mmdpad.evaluation.provenance',
        'mmdpad.visualization.answer_html': 'mmdpad.analysis.pages.answer_html',
        'mmdpad.visualization.html': 'mmdpad.analysis.pages.html',
        'mmdpad.visualization.rollouts': 'mmdpad.analysis.pages.rollouts',
        'mmdpad.visualization.run_numbers': 'mmdpad.analysis.pages.run_numbers',
        'mmdpad.visualization.run_page': 'mmdpad.analysis.pages.run_page',
        'mmdpad.visualization.study_page': 'mmdpad.analysis.pages.study_page',
    },
}


def advice(kind: str, name: object) -> str | None:
    """What to write instead of an old name.

    Args:
        kind: A key of :data:`RENAMED`.
        name: A name of this kind. A type may be a dotted path, a module a path within it, and a
            metric may have a prefix.

    Returns:
        None if the name is not an old one.
    """
    new = _rename(kind, str(name))
    return None if new == str(name) else f'it is called {new} now; write that'


def advice_in(text: str) -> str | None:
    """What to write instead of the first old module or class that a text, such as an error message,
    names; None if it names none."""
    return next((f'{path}: {found}' for path in re.findall(r'\w+(?:\.\w+)*', text)
                 if (found := advice('type', path))), None)


def _rename(kind: str, name: str) -> str:
    if kind == 'module':
        parts = name.split('.')
        for length in range(len(parts), 0, -1):
            if new := RENAMED['module'].get('.'.join(parts[:length])):
                return '.'.join([new, *parts[length:]])
        return name
    if kind == 'type':
        module, dot, last = _rename('module', name).rpartition('.')
        return module + dot + RENAMED['type'].get(last, last)
    prefix, slash, last = name.rpartition('/') if kind == 'metric' else ('', '', name)
    return prefix + slash + RENAMED[kind].get(last, last)
