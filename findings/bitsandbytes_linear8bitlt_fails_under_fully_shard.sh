#!/usr/bin/env bash
# bitsandbytes: of the two quantized layers, torch's FSDP2 (`fully_shard`) takes the one of 4 bits and fails at the first
# forward pass with the one of 8 bits: "'Parameter' object has no attribute 'CB'". The sharded parameter that replaces
# the weight has lost what the layer keeps on it. One process is enough to see it. Exits with 0 while it fails, with 1
# once it does not.
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    bitsandbytes==0.50.2 torch==2.14.1

cat > show.py <<'PROGRAM'
import logging
import platform
import tempfile

logging.disable(logging.ERROR)
import bitsandbytes as bnb
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

print(f'bitsandbytes {bnb.__version__}, torch {torch.__version__.partition("+")[0]}, '
      f'Python {platform.python_version()}')
print('source: fully_shard(nn.Sequential(quantized layer, nn.Linear)), with the quantized weight frozen, on a CPU\n')
with tempfile.TemporaryDirectory() as folder:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=0, world_size=1)
mesh = init_device_mesh('cpu', (1,))
LAYERS = dict(
    Linear4bit=lambda: bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_storage=torch.float32),
    Linear8bitLt=lambda: bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False))
seen = []
for name, make in LAYERS.items():
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Linear(64, 8)).to('cpu')
    model[0].requires_grad_(False)
    states = torch.randn(2, 64)
    expected = model(states)
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    try:
        seen.append(torch.allclose(model(states), expected))
    except AttributeError as error:
        seen.append(str(error))
    print(f'{name}: {"the same output as before" if seen[-1] is True else seen[-1]}')
torch.distributed.destroy_process_group()
raise SystemExit(0 if seen == [True, "'Parameter' object has no attribute 'CB'"] else 1)
PROGRAM
if env/bin/python show.py; then
    echo 'seen again: layers of 8 bits cannot be sharded'
else
    echo 'changed: layers of 8 bits behave otherwise' >&2
    exit 1
fi
