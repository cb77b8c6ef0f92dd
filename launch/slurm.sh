#!/usr/bin/env bash
#SBATCH --job-name=s1jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@600
#SBATCH --requeue
# s1-32B on 2 nodes of 8 H100s, which JAX joins from SLURM's environment. Ten minutes before its time
# is over the job is told to save, and ends with 75; submit it again to go on.
#   sbatch launch/slurm.sh --config=configs/h100_16.py --workdir=/shared/s1-32b
#   VERB=evaluate sbatch --nodes=1 --ntasks-per-node=1 launch/slurm.sh --config=configs/h100_16.py \
#     --config.mesh.fsdp=1 --config.mesh.context=1 --config.mesh.tensor=8 --workdir=/shared/s1-32b
# One process a GPU, since that is what JAX takes a SLURM task to be: it gives each task the GPU of its
# local number. The workdir must be on storage that all nodes see. srun does not take --cpus-per-task
# over from sbatch since SLURM 22.05.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start it with sbatch from the checkout}"
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" \
  "${PYTHON:-.venv/bin/python}" -m "s1jax.${VERB:-train}" "$@"
