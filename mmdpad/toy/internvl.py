# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What folders of InternVL 3.5 in transformers' own format hold, for :mod:`.policy_folder`.

The numbers of the special tokens are the published ones only with Qwen's vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

TILE = 448
"""Side of a tile in pixels."""
_TOKENS = '<img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box> <video>'.split()
_NAMED = dict(start_image_token='<img>', end_image_token='</img>',
              context_image_token='<IMG_CONTEXT>', video_token='<video>')
_PATCH, _MERGE = 14, 2


def internvl_families(width: int, layers: int, chat: str) -> dict[str, dict[str, Any]]:
    """The entry of InternVL in :mod:`.policy_folder`, for models of a width and number of layers.

    Args:
        width, layers: Of the language model and the vision tower.
        chat: Qwen's chat template.
    """
    sizes = dict(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                 num_attention_heads=2)
    return dict(internvl=dict(
        name='InternVL', images='GotOcr2', video='InternVL', newer=True, tied=False,
        ends=('<|im_end|>', ),
        chat=chat.replace('<|vision_start|><|image_pad|><|vision_end|>', '<IMG_CONTEXT>\n')
        .replace('<|vision_start|><|video_pad|><|vision_end|>', '<video>\n'),
        ids=dict(image='<IMG_CONTEXT>'), add_tokens=_add_tokens, complete=_complete,
        processor=dict(size=dict(height=TILE, width=TILE), image_mean=[0.485, 0.456, 0.406],
                       image_std=[0.229, 0.224, 0.225]),
        vision=dict(sizes, attention_bias=True, image_size=TILE, patch_size=_PATCH),
        text=dict(model_type='qwen3', head_dim=16), rotary=dict(), generation=dict()))


def _add_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_special_tokens(dict(extra_special_tokens=_TOKENS),
                                 replace_extra_special_tokens=False)


def _complete(folder: Path) -> None:
    """Name the tokens that the processor asks for, as the published folders do."""
    path = folder / 'tokenizer_config.json'
    settings = json.loads(path.read_text(encoding='utf-8'))
    settings.update(additional_special_tokens=settings.pop('extra_special_tokens'),
                    extra_special_tokens=_NAMED)
    path.write_text(json.dumps(settings, indent=2), encoding='utf-8')
    (folder / 'processor_config.json').write_text(json.dumps(dict(
        image_seq_length=(TILE // _PATCH // _MERGE)**2, processor_class='InternVLProcessor'),
        indent=2), encoding='utf-8')
