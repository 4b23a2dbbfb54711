#!/usr/bin/env bash
# transformers: `min_lr` of the cosine schedules ("the minimum learning rate to reach") and `lr_end` of the polynomial
# one are divided by `optimizer.defaults['lr']`, and each group ends at that share of its own learning rate. So
# parameters with a lower rate (a vision tower) end far below the minimum; without `lr=` beside the groups all do, since
# AdamW's default of 1e-3 counts, which no parameter has. No word is said. CosineAnnealingLR(eta_min=...) of torch ends
# every group at the minimum. Use `min_lr_rate`. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   transformers 5.24.0, torch 2.14.1, Python 3.11.7
#   groups with learning rates 1e-04 (head) and 2e-06 (tower), minimum 1e-06; at the end:
#   cosine, AdamW(groups, lr=1e-4): head 1e-06, tower 2e-08
#   cosine, AdamW(groups): head 1e-07, tower 2e-09
#   polynomial, AdamW(groups, lr=1e-4): head 1e-06, tower 2e-08
#   polynomial, AdamW(groups): head 1e-07, tower 2e-09
#   torch, AdamW(groups, lr=1e-4): head 1e-06, tower 1e-06
#   torch, AdamW(groups): head 1e-06, tower 1e-06
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    transformers==5.24.0 torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import torch
import transformers
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers.optimization import (
    get_cosine_with_min_lr_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

print(f'transformers {transformers.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print("source: transformers/optimization.py: min_lr / optimizer.defaults['lr'], lr_init = optimizer.defaults['lr']\n")
STEPS, MINIMUM = 100, 1e-6
RATES = dict(head=1e-4, tower=2e-6)


def rates_at_the_end(schedule, **settings):
    optimizer = torch.optim.AdamW(
        [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=rate) for rate in RATES.values()], **settings)
    scheduler = schedule(optimizer)
    optimizer.step()
    for _ in range(STEPS):
        scheduler.step()
    return tuple(f'{group["lr"]:.0e}' for group in optimizer.param_groups)


SCHEDULES = dict(
    cosine=lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(optimizer, 0, STEPS, min_lr=MINIMUM),
    polynomial=lambda optimizer: get_polynomial_decay_schedule_with_warmup(optimizer, 0, STEPS, lr_end=MINIMUM),
    torch=lambda optimizer: CosineAnnealingLR(optimizer, STEPS, eta_min=MINIMUM))
print(f'groups with learning rates {RATES["head"]:.0e} (head) and {RATES["tower"]:.0e} (tower), '
      f'minimum {MINIMUM:.0e}; at the end:')
seen = {}
for name, schedule in SCHEDULES.items():
    for text, settings in {'AdamW(groups, lr=1e-4)': dict(lr=1e-4), 'AdamW(groups)': {}}.items():
        head, tower = seen[name, len(settings)] = rates_at_the_end(schedule, **settings)
        print(f'{name}, {text}: head {head}, tower {tower}')
same = seen == {('cosine', 1): ('1e-06', '2e-08'), ('cosine', 0): ('1e-07', '2e-09'),
                ('polynomial', 1): ('1e-06', '2e-08'), ('polynomial', 0): ('1e-07', '2e-09'),
                ('torch', 1): ('1e-06', '1e-06'), ('torch', 0): ('1e-06', '1e-06')}
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
