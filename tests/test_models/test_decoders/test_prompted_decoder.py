# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import inspect
import re

import numpy as np
import pytest
import torch

from mmdpad.engine.check_arguments import find_wrong_arguments
from mmdpad.engine.config_nodes import Node
from mmdpad.models import DetectorDecoder, SAM3ConceptDecoder, SAMDecoder
from mmdpad.models.decoders.prompted_decoder import PromptedDecoder
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.registry import MODELS
from mmdpad.toy import SAM_WEIGHTS


class Recorder(PromptedDecoder):
    """A mask holds the pixel of the first point; the score is the box's left side."""
    device = torch.device('cpu')

    def segment(self, image, boxes, points):
        self.sizes.append(len(boxes))
        assert (boxes >= 0).all() and (boxes <= [8, 6, 8, 6]).all()
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (x, y) in zip(masks, points[:, 0].astype(int), strict=True):
            mask[y, x] = True
        return masks, torch.tensor(boxes[:, 0])


@pytest.mark.parametrize('count, sizes', [(0, []), (1, [1]), (16, [16]), (40, [16, 16, 8])])
def test_many_objects_are_segmented_in_parts(count, sizes):
    decoder = Recorder(cache_size=0)
    decoder.sizes = []
    numbers = torch.arange(count)
    boxes = torch.stack([numbers / 10, -numbers * 1e8, numbers * 1e8, -numbers], dim=1)
    points = torch.stack([numbers % 8, numbers % 6], dim=1)[:, None].float()
    masks, scores = decoder(np.zeros((6, 8, 3), np.uint8), boxes, points)
    assert decoder.sizes == sizes and masks.shape == (count, 6, 8)
    assert masks[numbers, numbers % 6, numbers % 8].all() and masks.sum() == count
    assert scores.tolist() == pytest.approx((numbers / 10).tolist())


def test_every_decoder_of_prompts_cleans_its_masks(monkeypatch):
    """By the same arguments, which result files name."""
    kinds = [kind for kind in MODELS.module_dict.values()
             if inspect.isclass(kind) and issubclass(kind, PromptedDecoder)
             and kind.__module__.startswith('mmdpad.')]
    assert {SAMDecoder, DetectorDecoder, SAM3ConceptDecoder} < {*kinds}
    for kind in kinds:
        taken = inspect.signature(kind).parameters
        assert taken['max_hole_area'].default == taken['max_sprinkle_area'].default == 0
        for name in ('max_hole_area', 'max_sprinkle_area'):
            config = dict(type=kind.__name__, **{name: -1})
            problems = [*find_wrong_arguments(Node('model.decoder', config, MODELS, 'mmdpad'))]
            assert any(re.match(f'`model.decoder.{name}` should be a number of pixels.*-1', problem)
                       for problem in problems)

    def holed(self, image, boxes, points):
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        masks[:, 1:6, 1:6] = True
        masks[:, 3, 3], masks[:, 7, 7] = False, True
        return masks, torch.ones(len(boxes))

    image, prompts = np.zeros((9, 9, 3), np.uint8), (torch.zeros(1, 4), torch.zeros(1, 1, 2))
    monkeypatch.setattr(SAMDecoder, 'segment', holed)
    for areas, expected in (((0, 0), 25), ((1, 0), 26), ((0, 1), 24), ((1, 1), 25)):
        settings = dict(zip(('max_hole_area', 'max_sprinkle_area'), areas, strict=True))
        decoder = SAMDecoder('vit_shapes', SAM_WEIGHTS, **settings)
        assert int(decoder(image, *prompts)[0].sum()) == expected
        assert decoder.variant == ', '.join(['vit_shapes', *(
            f'{name}={area}' for name, area in settings.items() if area)])


def test_a_score_that_is_not_finite_is_an_error():
    """Its mask would be empty."""
    class Scores(Recorder):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(1, 1)
            self.head.weight.data.fill_(torch.nan)

        def segment(self, image, boxes, points):
            masks, scores = super().segment(image, boxes, points)
            return masks, self.head(scores[:, None].float())[:, 0].where(scores > 1, scores)

    decoder, points = Scores(), torch.zeros(2, 1, 2)
    decoder.sizes = []
    boxes = torch.tensor([[0.5, 0, 3, 3], [2, 0, 5, 5]])
    decoder(np.zeros((6, 8, 3), np.uint8), boxes[:1], points[:1])
    with pytest.raises(NonFiniteError, match=r'that of box \[2.0, 0.0, 5.0, 5.0\] is nan.* '
                                             r'`head` .*weights are not finite: head.weight'):
        decoder(np.zeros((6, 8, 3), np.uint8), boxes, points)
