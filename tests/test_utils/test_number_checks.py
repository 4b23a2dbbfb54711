# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.utils.number_checks import check_number


@pytest.mark.parametrize('value', [1, 100.0, np.int64(3), np.float32(2)])
def test_numbers_of_any_type(value):
    whole = check_number('size', value, 'at least 1', lambda n: n >= 1, whole=True)
    assert whole == value and type(whole) is int
    assert check_number('size', value, 'at least 1', lambda n: n >= 1) is value


@pytest.mark.parametrize('value, wanted', [
    (0, 'at least 1'), (True, 'at least 1'), (np.True_, 'at least 1'), ('2', 'at least 1'),
    (None, 'at least 1'), ([3], 'at least 1'), (float('nan'), 'at least 1'),
    (2.5, 'a whole number'), (float('inf'), 'a whole number')])
def test_others_are_named(value, wanted):
    with pytest.raises(ValueError) as error:
        check_number('size', value, 'at least 1', lambda n: n >= 1, whole=True)
    assert str(error.value) == f'`size` should be {wanted}, but got {value!r}; correct it'
