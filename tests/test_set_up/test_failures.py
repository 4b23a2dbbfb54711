# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
from failures import CAUSES, UNKNOWN, explain, last_error_lines, likely_cause

LOGS = {
    'the operators were built, but crash the process that loads or calls them':
        'Fatal Python error: Segmentation fault\n\nCurrent thread 0x01 (most recent call first):',
    'the disk is full':
        '/usr/bin/ld: final link failed: No space left on device',
    'the compiler ran out of memory':
        'c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.',
    'nvcc does not fit the CUDA version of torch, or the C++ compiler':
        'RuntimeError: The detected CUDA version (11.8) mismatches the version that was used',
    'the CUDA toolkit lacks the headers of its libraries':
        'ATen/cuda/CUDAContextLight.h:10:10: fatal error: cusparse.h: No such file or directory',
    'no CUDA toolkit was found':
        'OSError: CUDA_HOME environment variable is not set.',
    'the system lacks libxcb.so.1, which OpenCV loads':
        'ImportError: libxcb.so.1: cannot open shared object file: No such file or directory',
    'the headers of Python are missing':
        'pybind11/detail/common.h:266:10: fatal error: Python.h: No such file or directory',
    'the C++ compiler is too old for the C++ standard of this torch':
        "c++: error: unrecognized command line option '-std=c++20'",
    'there is no C++ compiler':
        "error: command 'c++' failed: No such file or directory: 'c++'",
    'the versions asked for contradict each other':
        'ERROR: ResolutionImpossible: for help visit',
    'the package index could not be reached':
        'WARNING: Retrying (Retry(total=0, connect=None, read=None)) after connection broken by '
        "'NewConnectionError'\nERROR: No matching distribution found for mmcv==2.1.0",
    'the package index has no torch==2.14.1 for this Python and this system':
        'ERROR: Could not find a version that satisfies the requirement torch==2.14.1 (from '
        'versions: none)\nERROR: No matching distribution found for torch==2.14.1',
    'a package that the build needs is missing':
        "ModuleNotFoundError: No module named 'torch'",
}


@pytest.mark.parametrize('cause', LOGS)
def test_each_cause_is_found_in_a_log_that_shows_it(cause):
    assert likely_cause('[1/77] c++ -MMD\n' + LOGS[cause])[0] == cause


def test_every_cause_has_such_a_log():
    found = {cause.format('torch==2.14.1' if 'index' in cause else 'libxcb.so.1')
             for _, cause, _ in CAUSES}
    assert found == set(LOGS)


def test_what_is_not_recognised_is_not_guessed():
    assert likely_cause('[77/77] c++ -shared\neverything went well') == UNKNOWN


def test_a_failure_of_the_standard_is_not_taken_for_a_missing_compiler():
    log = ('ATen.h:5:2: error: #error C++20 or later compatible compiler is required to use ATen.\n'
           'ninja: build stopped: subcommand failed.')
    assert 'too old' in likely_cause(log)[0]


def test_the_lines_shown_are_the_last_errors_each_once():
    log = '\n'.join(['warning: unused', 'a.cpp:1: error: first', *['b.cpp:2: error: second'] * 9,
                     'note: in expansion', 'FAILED: b.o', 'compiling c.cpp'])
    assert last_error_lines(log) == ['a.cpp:1: error: first', 'b.cpp:2: error: second',
                                     'FAILED: b.o']
    assert last_error_lines('one\ntwo\nthree', count=2) == ['two', 'three']
    assert last_error_lines('') == []


def test_the_message_holds_lines_cause_remedy_and_log():
    message = explain('Compiling mmcv', LOGS['there is no C++ compiler'], '/logs/mmcv.log')
    for part in ('Compiling mmcv failed', "'c++'", 'likely cause: there is no C++ compiler',
                 'apt install build-essential', 'full log: /logs/mmcv.log'):
        assert part in message
