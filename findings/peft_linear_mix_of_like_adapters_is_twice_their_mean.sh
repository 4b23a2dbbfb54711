#!/usr/bin/env bash
# peft: add_weighted_adapter(combination_type='linear', weights=[0.5, 0.5]) does not average what two LoRA adapters
# do. It multiplies A and B each by the root of the weight and adds them up, so A of one adapter meets B of the other:
# two checkpoints of one run, whose A and B are alike, give twice their mean (n checkpoints give n times it), and two
# adapters of opposite signs in A and B, which do the same, give zero. The same holds for 'magnitude_prune'. The docs
# call 'linear' a rough approximation only. Use 'svd' or 'cat', whose weights are those of the effects. Exits with 0
# while it is so, with 1 once it is not.
#
# Seen:
#   peft 0.21.2, torch 2.13.0, Python 3.11.7
#   two checkpoints of one run: effect of the mix in units of the mean effect: {'cat': 1.0, 'svd': 1.0, 'linear':
#     2.0, 'magnitude_prune': 2.0}
#   four checkpoints of one run: effect of the mix in units of the mean effect: {'cat': 1.0, 'svd': 1.0, 'linear':
#     4.0, 'magnitude_prune': 4.0}
#   A, B and -A, -B: effect of the mix in units of the mean effect: {'cat': 1.0, 'svd': 1.0, 'linear': 0.0,
#     'magnitude_prune': 0.0}
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform
import warnings

warnings.simplefilter('ignore')
import peft
import torch
from peft import LoraConfig, get_peft_model

print(f'peft {peft.__version__}, torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: peft/tuners/lora/model.py, _generalized_task_arithmetic_weighted_adapter\n')


def weights_of_run(number):
    """A and B of checkpoints of one run: one direction, and a little that is their own."""
    torch.manual_seed(0)
    A, B = torch.randn(8, 32), torch.randn(32, 8)
    torch.manual_seed(1 + number)
    return A + 0.1 * torch.randn(8, 32), B + 0.1 * torch.randn(32, 8)


def effect(adapters, kind):
    """Weight change of a mix in equal parts, and the mean of the weight changes."""
    config = LoraConfig(r=8, lora_alpha=8, target_modules=['0'])
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(32, 32)), config, adapter_name='0')
    names = [str(number) for number in range(len(adapters))]
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for name, (A, B) in zip(names, adapters):
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = A.clone(), B.clone()
    options = dict(density=1.0) if kind in ('ties', 'magnitude_prune') else {}
    model.add_weighted_adapter(names, [1 / len(names)] * len(names), 'mix', combination_type=kind, **options)
    mean = sum(layer.get_delta_weight(name) for name in names) / len(names)
    return layer.get_delta_weight('mix').detach(), mean.detach()


def size(adapters, kind):
    mix, mean = effect(adapters, kind)
    return round(float((mix * mean).sum() / (mean * mean).sum()), 1)


runs = [weights_of_run(number) for number in range(4)]
A, B = runs[0]
cases = {'two checkpoints of one run': runs[:2], 'four checkpoints of one run': runs,
         'A, B and -A, -B': [(A, B), (-A, -B)]}
seen = {}
for name, adapters in cases.items():
    seen[name] = {kind: size(adapters, kind) for kind in ('cat', 'svd', 'linear', 'magnitude_prune')}
    print(f'{name}: effect of the mix in units of the mean effect: {seen[name]}')
same = [list(values.values()) for values in seen.values()] == [
    [1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 0.0, 0.0]]
print('\nas found' if same else '\nthe behavior has CHANGED')
raise SystemExit(not same)
PROGRAM
env/bin/python show.py
