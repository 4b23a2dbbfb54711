# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from itertools import islice

import pytest

from mmdpad.datasets import DatasetError
from mmdpad.datasets.samplers import VarianceSampler
from mmdpad.utils import write_jsonl


class Questions:
    def __len__(self):
        return 4

    def get_data_info(self, number):
        return dict(img_id=number, img_path=f'{number}.jpg', question='The dog')


def rates_file(tmp_path, *rates):
    return write_jsonl(str(tmp_path / 'rates.jsonl'), [
        dict(id=number, question='the dog', pass_rate=rate) for number, rate in enumerate(rates)])


def test_probabilities_by_hand(tmp_path):
    """Variances 0, 1/4, 3/16 and 0, of which a fifth is spread over all four."""
    path = rates_file(tmp_path, 0.0, 0.5, 0.25, 1.0)
    found = VarianceSampler(Questions(), path, uniform=0.2, seed=0)
    assert found.probabilities.tolist() == pytest.approx(
        [0.05, 0.05 + 0.8 * 4 / 7, 0.05 + 0.8 * 3 / 7, 0.05])
    drawn = list(islice(found, 2000))
    assert drawn.count(1) / 2000 == pytest.approx(0.05 + 0.8 * 4 / 7, abs=0.05)
    assert {0, 3} < set(drawn)
    assert list(islice(VarianceSampler(Questions(), path, 0.2, seed=0), 2000)) == drawn
    never = set(islice(VarianceSampler(Questions(), path, uniform=0.0, seed=1), 200))
    assert never == {1, 2}


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match='always or never; estimate with more responses'):
        VarianceSampler(Questions(), rates_file(tmp_path, 0.0, 1.0, 1.0, 0.0))
    with pytest.raises(DatasetError, match='has none of 2'):
        VarianceSampler(Questions(), rates_file(tmp_path, 0.5, 0.5))
    with pytest.raises(ValueError, match='`uniform` should be in'):
        VarianceSampler(Questions(), 'x', uniform=2.0)
