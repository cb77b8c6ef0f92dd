#!/usr/bin/env bash
# A rehearsal on any machine: 16 virtual CPU devices run the real, sharded program.
#   launch/local_16.sh --config=configs/mini.py --config.mesh.fsdp=8 --config.mesh.tensor=2 --workdir=runs/rehearsal
set -euo pipefail
cd "$(dirname "$0")/.."
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=16"
exec "${PYTHON:-.venv/bin/python}" -m s1jax.train "$@"
