#!/usr/bin/env bash
# Train under Slurm:
#   GPUS=16 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# GPUS (8), GPUS_PER_NODE (8, or GPUS if that is less; 0 for nodes without GPUs), CPUS_PER_TASK (5)
# and SRUN_ARGS come from the environment.
set -euo pipefail
usage="usage: $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]"
[ $# -ge 3 ] || { echo "$usage" >&2; exit 2; }
partition=$1 job_name=$2
shift 2
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
placement=()
[ "$per_node" = 0 ] || placement=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2086 # SRUN_ARGS are several words
PYTHONPATH="$root:${PYTHONPATH:-}" exec srun -p "$partition" --job-name="$job_name" \
    --ntasks="$gpus" "${placement[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$root/tools/train.py" "$@" --launcher slurm
