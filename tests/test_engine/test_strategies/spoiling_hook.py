# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A hook by which images of the second process become NaN, imported by name."""
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmdpad.engine.unwrap import unwrap
from mmdpad.registry import HOOKS


@HOOKS.register_module()
class SpoilingHook(Hook):

    def before_train(self, runner) -> None:
        if get_rank() == 1:
            tower = unwrap(runner.model).policy.model.model.visual
            tower.patch_embed.register_forward_hook(lambda module, args, output: output * torch.nan)
