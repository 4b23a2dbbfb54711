# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Kinds of layers."""

from pathlib import Path

from policy_folders import case, change_json, read_json


def with_a_window(folder: Path) -> None:
    text = read_json(folder / 'config.json')['text_config']
    change_json(folder / 'config.json', text_config=dict(
        text, use_sliding_window=True, sliding_window=8, layer_types=[
            'full_attention', 'sliding_attention']))


@case('a layer with a window', refused=r'Qwen2.5-VL \(qwen2_5_vl\) has sliding_attention, .*'
      "set `attn_implementation='sdpa'`, with `rollout_engine=")
def _(folder: Path) -> None:
    with_a_window(folder)


@case('a layer with a window, by the attention of transformers', same=False,
      policy=dict(attn_implementation='sdpa'), training=False)
def _(folder: Path) -> None:
    with_a_window(folder)


@case('eager attention in float64', refused="should not be 'eager' with `dtype='float64'`",
      policy=dict(attn_implementation='eager', dtype='float64'))
def _(folder: Path) -> None:
    """The folder is at no fault."""
