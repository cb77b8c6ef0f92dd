#!/usr/bin/env bash
# N real processes on this machine's CPU, each with DEVICES virtual devices: what hosts do, rehearsed.
#   N=4 launch/local_processes.sh --config=configs/mini.py --workdir=runs/processes
# The first process that ends otherwise than well ends the others, and its code is that of the whole.
set -euo pipefail
set -m # a process group for each job: one can be ended with what it started, and hears SIGINT
cd "$(dirname "$0")/.."
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-1}"
export NUM_PROCESSES="${N:-2}"
python="${PYTHON:-.venv/bin/python}"
free="import socket; s = socket.socket(); s.bind(('localhost', 0)); print(s.getsockname()[1])"
COORDINATOR_ADDRESS="${COORDINATOR_ADDRESS:-localhost:$("$python" -c "$free")}"
export COORDINATOR_ADDRESS
processes=()
stop() { kill -s "$1" "${processes[@]}" 2>/dev/null || true; }
trap 'stop TERM' TERM
trap 'stop INT' INT
for ((i = 0; i < NUM_PROCESSES; i++)); do
    PROCESS_ID=$i "$python" -m "s1jax.${VERB:-train}" "$@" </dev/null &
    processes+=($!)
done
code=0
while ((${#processes[@]} > 0)); do
    ended=0 which=
    wait -n -p which "${processes[@]}" || ended=$?
    [ -n "${which:-}" ] || continue # a signal came, and nothing has ended
    running=()
    for process in "${processes[@]}"; do
        [ "$process" = "$which" ] || running+=("$process")
    done
    processes=("${running[@]}")
    if ((ended != 0 && code == 0)); then
        code=$ended
        # The others are told why, and have so long to say it.
        { sleep 60 && stop KILL; } >/dev/null 2>&1 &
        reaper=$!
    fi
done
[ -z "${reaper:-}" ] || kill -- "-$reaper" 2>/dev/null || true
exit "$code"
