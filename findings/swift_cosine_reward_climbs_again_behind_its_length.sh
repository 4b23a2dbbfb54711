#!/usr/bin/env bash
# ms-swift: the reward `cosine` (GRPO, --reward_funcs cosine) falls from a short right answer to one of `cosine_max_len`
# tokens, and climbs again behind it, as nothing bounds the cosine: a right answer of twice the length has the reward of
# an empty one, the highest there is, and a wrong one the lowest. Who sets cosine_max_len below max_completion_length to
# keep answers short, or has answers of several turns, whose tokens are added up, rewards the longest ones, without a
# word; the docs call it the length of the paper (arXiv 2502.03373). TRL stops at the length. Exits with 0 while it is
# so, with 1 once it is not.
#
# Seen:
#   ms-swift 4.6.0, Python 3.11.7
#   cosine_max_len 256, reward by number of tokens
#   0: right 1.00, wrong -0.50
#   128: right 0.75, wrong -0.25
#   256: right 0.50, wrong 0.00
#   384: right 0.75, wrong -0.25
#   512: right 1.00, wrong -0.50
#   two turns of 256: right 1.00, wrong -0.50
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps ms-swift==4.6.0

cat > show.py <<'PROGRAM'
import platform
import sys
from importlib import import_module
from importlib.metadata import files, version
from pathlib import Path
from types import ModuleType, SimpleNamespace

# Without the __init__.py of swift and of its folders, which ask for transformers, modelscope and more.
(path, ) = [Path(file.locate()).parent for file in files('ms-swift') if str(file) == 'swift/rewards/orm.py']
for name, members in {'swift': {}, 'swift.rewards': dict(__path__=[str(path)]),
                      'swift.infer_engine': dict(InferRequest=dict)}.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__dict__.update(members)
CosineReward = import_module('swift.rewards.orm').CosineReward
print(f'ms-swift {version("ms-swift")}, Python {platform.python_version()}')
print('source: swift/rewards/orm.py, CosineReward.cosfn\n')
# The defaults of swift/rlhf_trainers/args_mixin.py, but for the length, which is max_completion_length there.
SETTINGS = SimpleNamespace(cosine_min_len_value_wrong=-0.5, cosine_max_len_value_wrong=0.0,
                           cosine_min_len_value_correct=1.0, cosine_max_len_value_correct=0.5, cosine_max_len=256)


def rewards(tokens):
    reward = CosineReward(SETTINGS, accuracy_orm=lambda completions, solution, **_: [
        float(completion == answer) for completion, answer in zip(completions, solution)])
    return [round(number, 2) + 0.0 for number in reward(['7', '8'], ['7', '7'], response_token_ids=[tokens, tokens])]


CASES = {str(length): [1] * length for length in (0, 128, 256, 384, 512)}
CASES['two turns of 256'] = [[1] * 256, [1] * 256]
print(f'cosine_max_len {SETTINGS.cosine_max_len}, reward by number of tokens')
seen = []
for name, tokens in CASES.items():
    seen.append(rewards(tokens))
    print(f'{name}: right {seen[-1][0]:.2f}, wrong {seen[-1][1]:.2f}')
same = seen == [[1, -0.5], [0.75, -0.25], [0.5, 0], [0.75, -0.25], [1, -0.5], [1, -0.5]]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
