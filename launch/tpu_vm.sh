#!/usr/bin/env bash
# s1-32B on every host of a TPU pod slice; JAX finds the other hosts by itself.
#   TPU=my-v5p-32 ZONE=us-east5-a launch/tpu_vm.sh --config=configs/tpu_v5p_32.py --workdir=/shared/s1-32b
# The slice must exist, with this checkout in ~/s1jax and `pip install -e '.[tpu]'` done in its .venv.
# VERB is train, or evaluate, which takes a mesh of one host's chips: of 4,
#   --config.mesh.fsdp=1 --config.mesh.context=1 --config.mesh.tensor=4
# The workdir must be on storage that all hosts have mounted. A lost ssh connection ends the run:
# start this in tmux, on a machine that stays on.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd s1jax && JOIN_HOSTS=1 exec .venv/bin/python -m s1jax.${VERB:-train}$arguments"
