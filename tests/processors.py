# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the test suite as on other processors: with other instruction sets, and other threads.

    make test-processors                                       # the tests that compare numbers
    python tests/processors.py tests/test_rl -k kl             # arguments as for pytest
    python tests/processors.py --settings older 'torch AVX2' -- tests

Libraries for numbers choose their code by the processor: sums in another order, other
approximations of exp, so other last bits. Each setting makes them choose as on another one. The
table says by `bits` what a few operations gave, so which settings change anything on this machine
(a library that the processor does not call for its best code may ignore one).
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMPY_AVX512 = 'AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4'
OLDER = dict(
    ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41', MKL_CBWR='COMPATIBLE',
    OPENBLAS_CORETYPE='Nehalem', NPY_DISABLE_CPU_FEATURES=f'AVX2 FMA3 X86_V3 {NUMPY_AVX512}')
SETTINGS = {
    'as it is': {},
    'torch AVX2': dict(ATEN_CPU_CAPABILITY='avx2'),
    'torch default': dict(ATEN_CPU_CAPABILITY='default'),
    'oneDNN AVX2': dict(ONEDNN_MAX_CPU_ISA='AVX2'),
    'oneDNN SSE4.1': dict(ONEDNN_MAX_CPU_ISA='SSE41'),
    'MKL oldest': dict(MKL_CBWR='COMPATIBLE'),
    'OpenBLAS Nehalem': dict(OPENBLAS_CORETYPE='Nehalem'),
    'numpy AVX2': dict(NPY_DISABLE_CPU_FEATURES=NUMPY_AVX512),
    'older': OLDER,
    'four threads': dict(MMDPAD_TEST_THREADS='4'),
    'older, four threads': dict(OLDER, MMDPAD_TEST_THREADS='4'),
}
# Where tests compare numbers with constants.
NUMBERS = ('tests/test_rl', 'tests/test_rewards', 'tests/test_models', 'tests/test_engine',
           'tests/test_evaluation', 'tests/test_toy', 'tests/test_apis')
PROBE = '''
import os, sys, numpy, torch
torch.set_num_threads(int(os.environ.get('MMDPAD_TEST_THREADS', 1)))
draw = torch.Generator().manual_seed(0)
a, b = torch.randn(2, 400, 400, generator=draw)
image, kernel = torch.randn(2, 8, 64, 64, generator=draw), torch.randn(16, 8, 3, 3, generator=draw)
x, y = (t.numpy().astype(float) for t in (a, b))
results = (a @ b, a.double() @ b.double(), a.exp(), a.sum(0), a.softmax(1), a.sum(),
           torch.conv2d(image, kernel))
for array in (*(t.numpy() for t in results), x @ y, numpy.exp(x), x.astype('f4').sum()):
    sys.stdout.buffer.write(numpy.ascontiguousarray(array).tobytes())
'''


def bits(environ: dict[str, str]) -> str:
    """What a few operations of torch and numpy give under these variables, as six characters."""
    made = subprocess.run([sys.executable, '-c', PROBE], env=environ, capture_output=True,
                          check=True).stdout
    return hashlib.sha256(made).hexdigest()[:6]


def run(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """A row of the table, and the tests that failed."""
    environ = {**os.environ, **SETTINGS[name]}
    started = time.monotonic()
    told = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-rfE', '-p', 'no:cacheprovider',
         '--disable-warnings', *arguments],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    counts = re.findall(r'(\d+) (passed|failed|errors?|skipped)', told.strip().splitlines()[-1])
    if not counts:
        sys.exit(f'pytest ran no tests:\n{told}')
    outcome = ', '.join(' '.join(count) for count in counts)
    row = f'{name:20} {bits(environ):7} {time.monotonic() - started:6.0f} s  {outcome}'
    return row, re.findall(r'^(?:FAILED|ERROR) .*', told, re.M)


def main() -> int:
    """Runs the tests under each setting; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS),
                        metavar='NAME', help=f'of: {", ".join(SETTINGS)} (default: all)')
    args, arguments = parser.parse_known_args()
    arguments = [argument for argument in arguments if argument != '--'] or list(NUMBERS)
    failed = {}
    for name in args.settings:
        row, failed[name] = run(name, arguments)
        print(row, *failed[name], sep='\n    ', flush=True)
    return any(failed.values())


if __name__ == '__main__':
    sys.exit(main())
