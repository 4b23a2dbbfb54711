"""Names of classes."""
import doctest

from mmdpad.prompts import labels


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(labels).failed == 0


def test_names_are_compared_without_case_underscores_and_runs_of_whitespace():
    assert labels.normalize_label('\tTraffic__Light\n') == 'traffic light'
    assert labels.normalize_label('STRASSE') == labels.normalize_label('Straße')
    assert labels.find_clashing_labels(['cup', 'plate']) == []
