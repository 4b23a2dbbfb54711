#!/usr/bin/env bash
# trl: accuracy_reward (and reasoning_accuracy_reward) takes "raw-text solutions" and reads one that is not LaTeX as the
# number that stands last in it. So a solution such as "[10, 20, 30, 40]", a box, or "5 and 7" is 40, or 7: the right
# answer has reward 0 and \boxed{40} has 1, without a word; and of a ratio or time, "2:1", it is the first. What has no
# number, such as "cat", is None for every answer, which leaves it out; a list is not. Write solutions in LaTeX,
# "$[10, 20, 30, 40]$". Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   trl 1.16.0, math-verify 0.9.0, Python 3.11.7
#   solution [10, 20, 30, 40]: read as 40; \boxed{[10, 20, 30, 40]} 0.0, \boxed{40} 1.0
#   solution (0.25, 0.75): read as 0.75; \boxed{(0.25, 0.75)} 0.0, \boxed{0.75} 1.0
#   solution 5 and 7: read as 7; \boxed{5, 7} 0.0, \boxed{7} 1.0
#   solution 2:1: read as 2; \boxed{2:1} 1.0, \boxed{2} 1.0
#   solution cat: read as nothing; \boxed{cat} None, \boxed{dog} None
#   solution $[10, 20, 30, 40]$: read as [10, 20, 30, 40]; \boxed{[10, 20, 30, 40]} 1.0, \boxed{40} 0.0
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    'math-verify[antlr4_13_2]==0.9.0' latex2sympy2-extended==1.11.0 sympy==1.14.0 packaging==25.0
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps trl==1.16.0

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType

# Without the __init__.py of trl, which asks for torch and transformers.
(path, ) = [Path(file.locate()).parent for file in files('trl') if str(file) == 'trl/import_utils.py']
for name in ('trl', 'trl.rewards'):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(path.parent.joinpath(*name.split('.')))]
accuracy_reward = import_module('trl.rewards.accuracy_rewards').accuracy_reward
print(f'trl {version("trl")}, math-verify {version("math-verify")}, Python {platform.python_version()}')
print('source: trl/rewards/accuracy_rewards.py, accuracy_reward: parse(sol)\n')


def rewards(solution, answers):
    columns = {}
    completions = [[dict(role='assistant', content=f'The answer is \\boxed{{{answer}}}.')] for answer in answers]
    values = accuracy_reward(completions, [solution] * len(answers), log_extra=columns.__setitem__)
    # "[0.750000000000000, '0.75']": what it is compared as, and the text of it.
    return columns['gold_parsed'][0].partition("'")[2].removesuffix("']") or 'nothing', values


CASES = {'[10, 20, 30, 40]': ('[10, 20, 30, 40]', '40'), '(0.25, 0.75)': ('(0.25, 0.75)', '0.75'),
         '5 and 7': ('5, 7', '7'), '2:1': ('2:1', '2'), 'cat': ('cat', 'dog'),
         '$[10, 20, 30, 40]$': ('[10, 20, 30, 40]', '40')}
seen = []
for solution, answers in CASES.items():
    read, values = rewards(solution, answers)
    seen.append(values)
    print(f'solution {solution}: read as {read}; '
          + ', '.join(f'\\boxed{{{answer}}} {value}' for answer, value in zip(answers, values)))
same = seen == [[0, 1], [0, 1], [0, 1], [1, 1], [None, None], [1, 0]]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
