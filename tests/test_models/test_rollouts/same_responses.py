# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import torch

from mmdpad.models.rollouts.sampling import Responses


def assert_same(found: Responses, expected: Responses) -> None:
    """The same tokens; log-probabilities, where `expected` has them, to the rounding of float32: a
    unit in the last place of a logit of 20 is 2e-6, and processors round differently."""
    for value, other in zip(found[:3], expected[:3], strict=True):
        assert value.equal(other)
    if expected.logp is not None:
        torch.testing.assert_close(found.logp, expected.logp, rtol=0, atol=1e-5)
