#!/usr/bin/env bash
# datasets: map and filter take their result from the cache if function and data are the same as before. A function of
# the program itself is compared by its code, as the docs say; one that is imported, or that a lambda calls, by its name
# alone. So after an edit of filters.py the old selection is used, in a new process too, without a word. The way out is
# load_from_cache_file=False, or an argument in fn_kwargs that changes with the file. Exits with 0 while it is so, with
# 1 once it is not.
#
# Seen:
#   datasets 5.2.0, Python 3.11.7
#   rows with a reward above 0.1: function of the program 4, of a module 4, lambda that calls it 4, without the cache
#     4
#   rows with a reward above 0.5: function of the program 2, of a module 4, lambda that calls it 4, without the cache
#     2
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    datasets==5.2.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import datasets

print(f'datasets {datasets.__version__}, Python {platform.python_version()}')
print('source: datasets/fingerprint.py, Hasher: dill saves functions of modules by reference\n')
datasets.Dataset.from_dict(dict(reward=[0.0, 0.2, 0.4, 0.6, 0.8])).save_to_disk('data')
FILTERS = 'def keep(example):\n    return example["reward"] > {}\n'
PROGRAM = '''
import json, sys
import datasets
import filters

datasets.disable_progress_bars()
data = datasets.load_from_disk('data')


def keep(example):
    return example['reward'] > {}


print(json.dumps([len(data.filter(keep)), len(data.filter(filters.keep)),
                  len(data.filter(lambda example: filters.keep(example))),
                  len(data.filter(filters.keep, load_from_cache_file=False))]))
'''


def run(threshold):
    Path('filters.py').write_text(FILTERS.format(threshold))
    Path('program.py').write_text(PROGRAM.format(threshold))
    output = subprocess.run([sys.executable, '-B', 'program.py'], capture_output=True, text=True, check=True,
                            env=os.environ | dict(HF_HOME=str(Path('home').resolve())))
    values = json.loads(output.stdout.splitlines()[-1])
    print(f'rows with a reward above {threshold}: function of the program {values[0]}, of a module {values[1]}, lambda '
          f'that calls it {values[2]}, without the cache {values[3]}')
    return values


same = run(0.1) == [4, 4, 4, 4] and run(0.5) == [2, 4, 4, 2]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
