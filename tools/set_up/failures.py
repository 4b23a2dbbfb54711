# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reads the log of a failed build and reports the relevant lines, the likely cause and a hint.

Standard library only, and syntax that Python 3.8 reads.
"""

import re

# System libraries that OpenCV's wheel loads; a minimal Debian, as in a container, has none of them.
OPENCV_LACKS = r'(lib(?:GL|xcb|glib-|gthread-|X|SM|ICE)\S*): cannot open shared object file'
OPENCV_HINT = 'apt install libxcb1 libgl1 libglib2.0-0'

# (pattern in the log, likely cause, hint); the first match is reported, with the pattern's groups
# in place of {0}.
CAUSES = [
    (r'No space left on device',
     'the disk is full',
     'free some space; a build needs about 1 GB in the cache folder (set XDG_CACHE_HOME to move '
     'it)'),
    (r'Killed signal terminated program|internal compiler error: Killed|virtual memory exhausted|'
     r'Cannot allocate memory|out of memory allocating',
     'the compiler ran out of memory',
     'build fewer files at once (about 2.5 GB each): MAX_JOBS=1 mmdpad build-mmcv'),
    (r'detected CUDA version \(.*\) mismatches|nvcc fatal|unsupported GNU version',
     'nvcc does not fit the CUDA version of torch, or the C++ compiler',
     'set CUDA_HOME to a toolkit of the CUDA version that torch names (python -c "import torch; '
     'print(torch.version.cuda)") and CXX to a compiler that it takes, or build for the CPU: '
     'mmdpad build-mmcv --cpu'),
    (r'fatal error: (?:cu|nv|thrust/|cub/)\S*: No such file',
     'the CUDA toolkit lacks the headers of its libraries',
     'install them (Debian and Ubuntu, from NVIDIA\'s packages: cuda-libraries-dev of the same '
     'release), or build for the CPU: mmdpad build-mmcv --cpu'),
    (r'CUDA_HOME environment variable is not set|nvcc.*(?:not found|No such file)',
     'no CUDA toolkit was found',
     'set CUDA_HOME to the toolkit, or build for the CPU: '
     'mmdpad build-mmcv --cpu'),
    (OPENCV_LACKS,
     'the system lacks {0}, which OpenCV loads',
     f'install the libraries (Debian and Ubuntu: {OPENCV_HINT}; Fedora: dnf install libxcb '
     'mesa-libGL glib2), then run the same command again'),
    (r'Python\.h: No such file',
     'the headers of Python are missing',
     'install them (Debian and Ubuntu: apt install python3-dev; Fedora: dnf install '
     'python3-devel)'),
    (r'C\+\+\d\d or later compatible compiler is required|'
     r'unrecognized (?:command[ -]line )?option .*std=|invalid value .* in .-std=',
     'the C++ compiler is too old for the C++ standard of this torch',
     'install a newer one and name it: CXX=g++-12 CC=gcc-12 mmdpad build-mmcv'),
    (r'''(?:c\+\+|g\+\+|gcc|cc|clang\+*)['"]?: (?:command )?not found|'''
     r'''No such file or directory: '[^']*(?:c\+\+|g\+\+|gcc|cc|clang)|'''
     r'''command '[^']*(?:c\+\+|g\+\+|gcc|cc)' failed: No such file''',
     'there is no C++ compiler',
     'install one (Debian and Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++; '
     'conda: conda install gxx_linux-64) or name one with CXX=...'),
    (r'ResolutionImpossible|conflicting dependencies',
     'the versions asked for contradict each other',
     'in an active environment: deactivate it and run the same command again, so that mmdpad gets '
     'one in .venv/; or change the packages named above'),
    (r'Temporary failure in name resolution|Connection(?: refused|Error)|Retrying \(Retry|'
     r'Read timed out|CERTIFICATE_VERIFY_FAILED',
     'the package index could not be reached',
     'check the connection and `pip config list` (index-url, proxy), then run the same command '
     'again'),
    (r'No matching distribution found for (\S+)',
     'the package index has no {0} for this Python and this system',
     'use another Python (make clean-env, then make env PYTHON=python3.12), or another index '
     '(`pip config list` shows which is asked)'),
    (r'Fatal Python error: (?:Segmentation fault|Aborted|Illegal instruction)',
     'the operators were built, but crash the process that loads or calls them',
     'build for the CPU (mmdpad build-mmcv --cpu), or with another compiler '
     '(CXX=..., CC=...); the end of the log names the line that crashed'),
    (r"No module named '(?:torch|setuptools|wheel)'",
     'a package that the build needs is missing',
     'pip install torch "setuptools<82" wheel ninja, then run the same command again'),
]
UNKNOWN = ('not recognized', 'read the log; the first "error" in it is usually the cause')

_ERROR_LINE = re.compile(r'\berror\b|Error:|FAILED:|Killed|No such file|not found', re.IGNORECASE)


def likely_cause(log_text):
    """Returns the likely (cause, hint) of a failure, both as text, based on the log."""
    for pattern, cause, hint in CAUSES:
        found = re.search(pattern, log_text)
        if found:
            return cause.format(*found.groups()), hint
    return UNKNOWN


def last_error_lines(log_text, count=6, width=240):
    """Returns the last `count` different lines that mention an error, else the last lines."""
    lines = [line.strip()[:width] for line in log_text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR_LINE.search(line)]
    return list(dict.fromkeys(errors or lines))[-count:]


def explain(what, log_text, log_path):
    """Returns the message for a failed step: last error lines, likely cause, hint, log."""
    cause, hint = likely_cause(log_text)
    shown = '\n'.join(f'    | {line}' for line in last_error_lines(log_text))
    return (f'{what} failed. The last error lines:\n{shown}\n'
            f'  likely cause: {cause}\n  hint: {hint}\n  full log: {log_path}')
