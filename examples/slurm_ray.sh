#!/bin/bash
# Runs a synthesis command on several SLURM nodes: starts a Ray cluster on them, and ends it afterwards.
#
#   sbatch --nodes=4 --time=08:00:00 examples/slurm_ray.sh \
#     python examples/synthesize_mixed_modal.py --input data/chats.jsonl --output-dir data/mixed --launcher ray --workers 120
#
# A job that ran out of time goes on where it stopped when the same line is given again.
#
# What has to be the same on every node: the folder that this is submitted from, the input and the output folder (a shared
# file system), and the Python environment, which is active when the job is submitted or is loaded below. Options of your
# cluster (account, partition, container) go on the sbatch line; none is assumed here. With GPUs: --gpus-per-node=8 there,
# and --gpus-per-worker 1 behind the command.
#
#SBATCH --job-name=synthesis
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive

set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: sbatch --nodes=N $0 COMMAND --launcher ray --workers W ..." >&2
  exit 2
fi

# module load ... ; source .venv/bin/activate        # only if the environment is not active when the job is submitted

export RAY_USAGE_STATS_ENABLED=0            # Ray tells nobody that it runs
export RAY_AUTH_MODE=token                  # whoever reaches a Ray cluster without one can run code on it
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN                       # of this job alone; srun hands it to the other nodes
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp}       # sockets: a short path on the node's own disk
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # one worker per CPU: threads inside of each would only wait for each other

cpus=${SLURM_CPUS_ON_NODE:?this script is for sbatch}
gpus=${SLURM_GPUS_ON_NODE:-0}
nodes=$SLURM_JOB_NUM_NODES
object_store=100000000 # bytes; rows and audio do not pass through it
port=$((20000 + SLURM_JOB_ID % 10000)) # above the ports of Ray's workers; jobs that share a node do not meet

# The head runs on the node that runs this script; its address is the one by which the other nodes reach it.
head_node=$(hostname)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" --overlap hostname --ip-address | awk '{print $1}')
export RAY_ADDRESS="$head_ip:$port"

ray_start() { # NODES... -- ARGS: a Ray node on each, in the foreground of one srun step that ends with this job
  local where=() ; while [ "$1" != "--" ]; do where+=("$1"); shift; done ; shift
  # --cpu-bind=none: the step takes all CPUs of the node and leaves them to Ray. --overlap: the command shares them.
  srun "${where[@]}" --ntasks-per-node=1 --cpus-per-task="$cpus" --cpu-bind=none --overlap \
    env -u RAY_ADDRESS ray start --block --num-cpus="$cpus" --num-gpus="$gpus" \
    --object-store-memory="$object_store" --disable-usage-stats "$@" &
}

ray_start --nodes=1 --nodelist="$head_node" -- \
  --head --node-ip-address="$head_ip" --port="$port" --include-dashboard=false
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

# `ray status` fails until the head answers.
until ray status >/dev/null 2>&1; do
  if [ -z "$(jobs -r -p)" ]; then
    echo "error: Ray's head could not be started on $head_node: its words are above" >&2
    exit 1
  fi
  sleep 2
done
if [ "$nodes" -gt 1 ]; then
  ray_start --nodes=$((nodes - 1)) --exclude="$head_node" -- --address="$RAY_ADDRESS"
fi

# The command begins with the nodes that are there; the others join when they are ready, and a node that is lost costs the
# shards that it was at, which are done again elsewhere.
echo "Ray at $RAY_ADDRESS on $nodes nodes with $cpus CPUs and $gpus GPUs each" >&2
"$@"
