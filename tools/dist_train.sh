#!/usr/bin/env bash
# Train on several GPUs, or with several processes on CPUs:
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# On several machines, run it on each; GPUS is the number per machine:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST_OF_THE_FIRST PORT=29500 tools/dist_train.sh ...
set -euo pipefail
usage="usage: $0 CONFIG GPUS [arguments of tools/train.py]"
[ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }
config=$1 gpus=$2
shift 2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHONPATH="$root:${PYTHONPATH:-}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"
