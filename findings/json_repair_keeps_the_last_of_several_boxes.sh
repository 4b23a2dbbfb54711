#!/usr/bin/env bash
# json_repair, by which many read the answers of vision-language models: of several JSON objects with the same keys that
# no comma parts (a line each, numbered, in code blocks of their own, in a sentence), the last alone is returned, as an
# "update" of the others. So of an answer with a box for each object all boxes but one are lost, without a word, and
# whether they are depends on the form of the texts: with a comma between, or one key more, all are kept. The README
# does not say so. `strict=True` raises an error instead. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   json_repair 0.64.6, Python 3.11.7
#   boxes found of 3:
#   a line each: 1
#   numbered: 1
#   in code blocks: 1
#   in a sentence: 1
#   with commas: 3
#   a line each, one key more in the second: 3
#   a line each, strict=True: ValueError
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: json_repair==0.64.6

cat > show.py <<'PROGRAM'
import json
import platform
from importlib.metadata import version

import json_repair

print(f'json_repair {version("json_repair")}, Python {platform.python_version()}')
print('source: json_repair/json_parser.py, _parse_top_level: "Treat repeated objects as updates: keep the newest '
      'value."\n')
boxes = [dict(bbox_2d=[10, 20, 30, 40], label='cup'), dict(bbox_2d=[50, 60, 70, 80], label='plate'),
         dict(bbox_2d=[15, 5, 90, 70], label='table')]
cup, plate, table = map(json.dumps, boxes)
ANSWERS = {
    'a line each': '\n'.join((cup, plate, table)),
    'numbered': f'1. {cup}\n2. {plate}\n3. {table}',
    'in code blocks': '\n'.join(f'```json\n{text}\n```' for text in (cup, plate, table)),
    'in a sentence': f'The cup is {cup} and the plate {plate} on the table {table}.',
    'with commas': ',\n'.join((cup, plate, table)),
    'a line each, one key more in the second': '\n'.join((cup, json.dumps(boxes[1] | dict(color='white')), table))}


def found(answer):
    result = json_repair.loads(answer)
    return len(result) if isinstance(result, list) else 1


print('boxes found of 3:')
seen = {}
for name, answer in ANSWERS.items():
    seen[name] = found(answer)
    print(f'{name}: {seen[name]}')
try:
    strict = str(json_repair.loads(ANSWERS['a line each'], strict=True))
except ValueError as error:
    strict = type(error).__name__
print(f'a line each, strict=True: {strict}')
last = json_repair.loads(ANSWERS['a line each']) == boxes[2]
same = list(seen.values()) == [1, 1, 1, 1, 3, 3] and last and strict == 'ValueError'
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
