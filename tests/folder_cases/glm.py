# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders of GLM-V as they were published."""

from pathlib import Path

from policy_folders import case, change_json, read_json


@case("GLM-4.1V's config.json as published", family='glm4v')
def _(folder: Path) -> None:
    """The rotary embedding's settings are entries of their own, and the tower has none."""
    path = folder / 'config.json'
    config = read_json(path)
    text, vision = config['text_config'], config['vision_config']
    rope = text.pop('rope_parameters')
    del vision['rope_parameters']
    text.update(rope_theta=rope['rope_theta'], partial_rotary_factor=rope['partial_rotary_factor'],
                rope_scaling=dict(rope_type='default', mrope_section=rope['mrope_section']),
                eos_token_id=read_json(folder / 'generation_config.json')['eos_token_id'])
    change_json(path, text_config=text, vision_config=vision)


@case("GLM-4.6V-Flash: GLM-4.1V's model with GLM-4.6V's processor", family='glm4v')
def _(folder: Path) -> None:
    for name in ('preprocessor_config.json', 'video_preprocessor_config.json'):
        content = read_json(folder / name)
        kind = 'image_processor_type' if name.startswith('pre') else 'video_processor_type'
        change_json(folder / name, processor_class='Glm46VProcessor',
                    **{kind: content[kind].replace('Glm4v', 'Glm46V')})
    change_json(folder / 'tokenizer_config.json', processor_class='Glm46VProcessor')


@case('GLM-4.5V', family='glm4v_moe')
def _(folder: Path) -> None:
    pass
