#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, for as long as this runs: no systemd, nothing outside of FOLDER.
#
#   apt-get install -y slurmctld slurmd slurm-client munge
#   tests/recipes/slurm_cluster.sh FOLDER &            # or with a command behind it: ends with that command, and with its status
#   export SLURM_CONF=FOLDER/slurm.conf                # once FOLDER/ready is there; then sbatch, squeue, scontrol, ...
#
# Both nodes take jobs of the user who starts this. FOLDER has the daemons' logs.
set -euo pipefail

folder="$(mkdir -p "${1:?usage: $0 FOLDER [COMMAND...]}" && cd "$1" && pwd)"
shift
chmod 700 "$folder" # one user alone; munge wants all to reach its socket, hence its --force
rm -f "$folder/ready"
mkdir -p "$folder"/{state,n1,n2}
PATH="$PATH:/usr/sbin"
user="$(id -un)"
host="$(hostname -s)"
port=$((20000 + $$ % 20000))

head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
JobRequeue=1
MinJobAge=300
KillWait=5
ReturnToService=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=UNLIMITED State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"

pids=()
finish() {
    scancel --user="$user" 2>/dev/null || true
    for _ in {1..100}; do # a job that does not end by itself is killed after KillWait; nobody would do it without the daemons
        [[ -n "$(squeue --noheader 2>/dev/null)" ]] || break
        sleep 0.2
    done
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    rm -f "$folder/ready"
}
trap finish EXIT
check_daemons() {
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null && continue
        tail -n 5 "$folder"/*.log >&2
        exit 1
    done
}
trap 'exit 143' TERM
trap 'exit 130' INT

munged --foreground --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --seed-file="$folder/munge.seed" --num-threads=1 >"$folder/munged.log" 2>&1 &
pids+=($!)
until munge --no-input --socket="$folder/munge.socket" >/dev/null 2>&1; do
    check_daemons
    sleep 0.1
done
slurmctld -D -i >/dev/null 2>&1 &
pids+=($!)
for node in n1 n2; do
    slurmd -D -N "$node" >/dev/null 2>&1 &
    pids+=($!)
done
until [[ "$(sinfo --noheader --states=idle --Format=Nodes 2>/dev/null | tr -d ' ')" == 2 ]]; do
    check_daemons
    sleep 0.2
done
touch "$folder/ready"

if (($#)); then
    "$@"
else
    wait -n "${pids[@]}"
    echo "a daemon of the cluster ended: see $folder/*.log" >&2
    exit 1
fi
