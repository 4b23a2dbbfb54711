# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The families of policies, by the ``model_type`` of a config.json."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import (
    Glm4vForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from mmdpad.geometry.coordinates import check_coordinates
from mmdpad.models.sources import read_config

_ENTRIES = ('image_token_id', 'video_token_id', 'vision_start_token_id', 'vision_end_token_id',
            'vision_token_id')
_GLM_ENTRIES = tuple(f'{name}_token_id' for name in (
    'image', 'video', 'image_start', 'image_end', 'video_start', 'video_end'))


@dataclass(frozen=True)
class PolicyFamily:
    """A family of vision-language models.

    Attributes:
        name: The name to display.
        model_class: The class of transformers. Its ``model`` must have ``visual``,
            ``language_model`` and ``get_rope_index``, as in Qwen-VL.
        coordinates: The coordinates that the published weights write, one of
            :data:`mmdpad.geometry.coordinates.COORDINATES`.
        vision_tokens: Keys in config.json of the tokens that represent images or videos; a config
            may lack some.
    """

    name: str
    model_class: type[PreTrainedModel]
    coordinates: str
    vision_tokens: tuple[str, ...] = _ENTRIES

    def __post_init__(self) -> None:
        check_coordinates(self.coordinates)


FAMILIES: dict[str, PolicyFamily] = {}
"""Maps ``model_type`` to the family."""


def register_family(model_type: str, family: PolicyFamily) -> None:
    """Register a family under the ``model_type`` of its config.json."""
    FAMILIES[model_type] = family


register_family('qwen2_vl', PolicyFamily('Qwen2-VL', Qwen2VLForConditionalGeneration,
                                         'relative_1000'))
register_family('qwen2_5_vl', PolicyFamily('Qwen2.5-VL', Qwen2_5_VLForConditionalGeneration,
                                           'pixels'))
register_family('qwen3_vl', PolicyFamily('Qwen3-VL', Qwen3VLForConditionalGeneration,
                                         'relative_1000'))
register_family('glm4v', PolicyFamily(
    'GLM-4.1V', Glm4vForConditionalGeneration, 'relative_1000', _GLM_ENTRIES))


def find_family(source: str) -> PolicyFamily:
    """Find the family of a policy. Reads only its config.json.

    Args:
        source: Folder or hub name, see :func:`mmdpad.models.sources.check_source`.

    Raises:
        ValueError: No such family is registered.
    """
    model_type = read_config(source).get('model_type')
    if model_type not in FAMILIES:
        known = ', '.join(f'{name} ({family.name})' for name, family in FAMILIES.items())
        raise ValueError(
            f'The `model_type` in config.json of {source!r} should be one of {known}, but is '
            f'{model_type!r}; use such a model, or add its family in a module of '
            f'`custom_imports`: register_family({model_type!r}, PolicyFamily(name=..., '
            f"model_class=..., coordinates='pixels' or 'relative_1000')) of "
            f'mmdpad.models.heads.families, see docs/policies.md')
    return FAMILIES[model_type]
