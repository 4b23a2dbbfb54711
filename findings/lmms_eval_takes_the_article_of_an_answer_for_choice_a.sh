#!/usr/bin/env bash
# lmms-eval, MMMU and the tasks that share its parser: the letter of a choice is looked for before the text of one, as a
# capital letter and a blank, anywhere. So an answer in words that begins with the article "A" is choice A, whatever it
# says, and so is one with a word in capitals (a "USA "), before the text of another choice is looked at. The text alone
# counts in answers of six words and more; a shorter one that is right to the letter gets a random choice, like an empty
# one (the random choice is a rule of MMMU). Ask for letters alone, and count the answers without one. Exits with 0 while
# it does, with 1 once it does not.
#
# Seen:
#   lmms-eval 0.7.3, Python 3.11.7
#   choices A: a cat, B: a dog, C: a bird, D: a fish; 200 parses of each answer
#   'A dog lies on the sofa there.' -> A
#   'It is from the USA by birth, a dog.' -> A
#   'There lies one dog, or a dog.' -> B
#   'a dog' -> A, B, C, D
#   'B' -> B
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: numpy==2.2.6
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps lmms-eval==0.7.3

cat > show.py <<'PROGRAM'
import platform
import random
from importlib.metadata import distribution, version
from importlib.util import module_from_spec, spec_from_file_location

# The file by itself: the package asks for much that takes no part in it.
path = distribution('lmms-eval').locate_file('lmms_eval/tasks/_task_utils/mmmu_mcq_utils.py')
spec = spec_from_file_location('mmmu_mcq_utils', path)
module = module_from_spec(spec)
spec.loader.exec_module(module)

print(f'lmms-eval {version("lmms-eval")}, Python {platform.python_version()}')
print('source: lmms_eval/tasks/_task_utils/mmmu_mcq_utils.py, parse_mmmu_multi_choice_response\n')
texts, letters = module.get_multi_choice_info(['a cat', 'a dog', 'a bird', 'a fish'])
print(f'choices {", ".join(f"{letter}: {text}" for letter, text in texts.items())}; 200 parses of each answer')
seen = []
random.seed(0)
for answer in ('A dog lies on the sofa there.', 'It is from the USA by birth, a dog.', 'There lies one dog, or a dog.',
               'a dog', 'B'):
    seen.append(sorted({module.parse_mmmu_multi_choice_response(answer, letters, texts) for _ in range(200)}))
    print(f'{answer!r} -> {", ".join(seen[-1])}')
same = seen == [['A'], ['A'], ['B'], ['A', 'B', 'C', 'D'], ['B']]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
