# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from torch import nn

from mmdpad.engine.unwrap import unwrap


def test_with_and_without_a_wrapper():
    model = nn.Linear(1, 1)
    assert unwrap(model) is model and unwrap(nn.DataParallel(model)) is model
    holder = nn.Module()  # which has a `module`, and is no wrapper
    holder.module = model
    assert unwrap(holder) is holder
