#!/usr/bin/env bash
# math-verify: an answer that is a list without brackets is compared as a set. So an order (the boxes from left to right,
# a point as x, y, steps of a plan) is right in any order, and repeated entries may be left out or added: as the reward
# of GRPO, in TRL's accuracy_reward among others, it teaches no order at all. With brackets the order counts. Exits with
# 0 while it does, with 1 once it does not.
#
# Seen:
#   math-verify 0.9.0, Python 3.11.7
#   right \boxed{3, 1, 2}; answered \boxed{3, 1, 2}: True
#   right \boxed{3, 1, 2}; answered \boxed{1, 2, 3}: True
#   right \boxed{120, 340}; answered \boxed{340, 120}: True
#   right \boxed{2, 2, 5}; answered \boxed{5, 2}: True
#   right \boxed{(3, 1, 2)}; answered \boxed{(1, 2, 3)}: False
#   right \boxed{(120, 340)}; answered \boxed{(340, 120)}: False
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    'math-verify[antlr4_13_2]==0.9.0' latex2sympy2-extended==1.11.0 sympy==1.14.0

cat > show.py <<'PROGRAM'
import platform
from importlib.metadata import version

from math_verify import parse, verify

print(f'math-verify {version("math-verify")}, Python {platform.python_version()}')
print('source: math_verify.verify(parse(right), parse(answered))\n')
seen = []
for right, answered in (('3, 1, 2', '3, 1, 2'), ('3, 1, 2', '1, 2, 3'), ('120, 340', '340, 120'), ('2, 2, 5', '5, 2'),
                        ('(3, 1, 2)', '(1, 2, 3)'), ('(120, 340)', '(340, 120)')):
    right, answered = f'\\boxed{{{right}}}', f'\\boxed{{{answered}}}'
    seen.append(verify(parse(right), parse(answered)))
    print(f'right {right}; answered {answered}: {seen[-1]}')
same = seen == [True] * 4 + [False] * 2
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
