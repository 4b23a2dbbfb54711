#!/usr/bin/env bash
# numpy's default_rng takes a list of integers as a seed, as in default_rng([seed, epoch, sample]), and pads a short one
# with zeros: [7, 3] gives the same numbers as [7, 3, 0] and [7, 3, 0, 0]. So seeds of several lengths, such as one for
# a sample and a longer one for a further turn about it, are not apart where they end in 0, and no error is raised.
# Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import numpy as np

print(f'numpy {np.__version__}, Python {platform.python_version()}')
print('source: numpy/random/bit_generator.pyx, SeedSequence.mix_entropy fills its pool of 4 words of 32 bits with 0\n'
      '  where the seed has fewer; numpy/numpy#16539 is about the same zeros in spawned seeds, which were repaired\n')

same = True
for first, second, seen in (
        ([7, 3], [7, 3, 0], True),
        ([7, 3], [7, 3, 0, 0], True),
        (7, [7, 0, 0], True),
        ([7, 3], [7, 0, 3], False),
        ([7, 3], [0, 7, 3], False),
        ([7, 3, 1, 2], [7, 3, 1, 2, 0], False),  # the pool is full
        (2**32 * 5 + 7, [7, 5], True)):  # a large integer is several words, too
    a, b = (np.random.default_rng(seed).random(4) for seed in (first, second))
    equal = bool((a == b).all())
    same = same and equal is seen
    print(f'default_rng({first}) and default_rng({second}): '
          + ('the SAME numbers' if equal else 'other numbers'))
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
