#!/usr/bin/env bash
# torch: AveragedModel holds the average in the dtype of the model. Of a model in bfloat16 (as large ones are loaded)
# the exponential moving average of swa_utils stays near its start for good: with the default decay 0.999 a step is 0.1
# % of the difference, less than half of the distance between two numbers of bfloat16, and is rounded away, without a
# word. So the "average" is the model of the first update. AveragedModel(model).float() needs an avg_fn that converts
# the weights of the model, as below; the one of swa_utils raises. Exits with 0 while it is so, with 1 once it is not.
#
# Seen:
#   torch 2.13.0, Python 3.11.7
#   decay 0.999, 10000 steps after the change: average in float32 2.0, in bfloat16 1.0
#   decay 0.99, 10000 steps after the change: average in float32 2.0, in bfloat16 1.609
#   decay 0.999, average in float32 of a model in bfloat16: 2.0
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    torch==2.13.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

print(f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)), a weight that '
      'goes from 1 to 2\n')
STEPS = 10_000


def average(dtype, decay, mended=False):
    model = torch.nn.Linear(1, 1, bias=False).to(dtype)
    if mended:
        ema = AveragedModel(model, avg_fn=lambda average, value, _: average.lerp(value.float(), 1 - decay)).float()
    else:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for value in [1.0] + [2.0] * STEPS:
        torch.nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
    return round(ema.module.weight.item(), 3)


seen = {}
for decay in (0.999, 0.99):
    seen[decay] = average(torch.float32, decay), average(torch.bfloat16, decay)
    print(f'decay {decay}, {STEPS} steps after the change: average in float32 {seen[decay][0]}, in bfloat16 '
          f'{seen[decay][1]}')
mended = average(torch.bfloat16, 0.999, mended=True)
print(f'decay 0.999, average in float32 of a model in bfloat16: {mended}')
same = seen[0.999] == (2.0, 1.0) and seen[0.99][0] == 2.0 and seen[0.99][1] < 1.7 and mended == 2.0
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
