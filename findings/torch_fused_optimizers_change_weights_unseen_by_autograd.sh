#!/usr/bin/env bash
# torch: with `fused=True`, the step of SGD, Adam, AdamW and Adagrad changes parameters in place but does not raise
# their version, by which autograd knows that a saved tensor has changed. So a backward pass after the step through a
# graph made before it (two losses, a retained graph, adversarial training), which the other implementations refuse with
# "modified by an inplace operation", returns a gradient with the new weights in place of the old ones, without a word.
# A cache that compares `_version` keeps values of the old weights. What to do: call
# `torch.autograd.graph.increment_version` on the parameters after each step, in a hook of the optimizer. Shown on a
# CPU. Exits with 0 while it is so, with 1 once it is not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: torch==2.14.1 numpy==2.2.6

cat > show.py <<'PROGRAM'
import platform

import torch
from torch.autograd.graph import increment_version

print(f'torch {torch.__version__.partition("+")[0]}, Python {platform.python_version()}')
print('source: torch.optim.SGD, Adam, AdamW, Adagrad and their step()\n')
OLD = [1.0, 2.0]
same = True


def backward_after_step(kind, how, hook=False):
    """Ask a graph of weight * x, made before a step changes the weight, for the gradient by x: the old weight.

    Returns whether it is refused, and whether it is the new weight instead.
    """
    weight, x = torch.nn.Parameter(torch.tensor(OLD)), torch.ones(2, requires_grad=True)
    optimizer = kind([weight], lr=0.5, **how)
    if hook:
        optimizer.register_step_post_hook(lambda *_: increment_version([weight]))
    later = (weight * x).sum()
    weight.square().sum().backward()
    version = weight._version
    optimizer.step()
    try:
        later.backward()
        outcome = x.grad.tolist()
    except RuntimeError as error:
        outcome = 'refused' if 'modified by an inplace operation' in str(error) else str(error)
    print(f'{kind.__name__:7} {how}{" and a hook" if hook else ""}: version {version} -> {weight._version}, '
          f'weight {OLD} -> {weight.tolist()}, gradient {outcome}')
    return outcome == 'refused', outcome == weight.tolist() != OLD


for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
    for how in (dict(foreach=False), dict(foreach=True), dict(fused=True)):
        refused, of_new_weight = backward_after_step(kind, how)
        same &= of_new_weight if 'fused' in how else refused
    same &= backward_after_step(kind, dict(fused=True), hook=True)[0]
raise SystemExit(0 if same else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: the fused step is not seen by autograd'
else
    echo 'changed: autograd sees the fused step' >&2
    exit 1
fi
