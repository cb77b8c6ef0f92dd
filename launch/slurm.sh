#!/usr/bin/env bash
#SBATCH --job-name=s1jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# s1-32B on 2 nodes of 8 H100s: one process a node, which JAX joins from SLURM's environment.
#   sbatch launch/slurm.sh --config=configs/h100_16.py --workdir=/shared/s1-32b
# The workdir must be on storage that all nodes see. A job that is stopped or requeued goes on.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch from the checkout}"
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m s1jax.train "$@"
