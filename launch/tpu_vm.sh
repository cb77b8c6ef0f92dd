#!/usr/bin/env bash
# s1-32B on every host of a TPU pod slice; JAX finds the other hosts by itself.
#   TPU=my-v5p-32 ZONE=us-east5-a launch/tpu_vm.sh --config=configs/tpu_v5p_32.py --workdir=/shared/s1-32b
# The slice must exist, with this checkout in ~/s1jax and `pip install -e '.[tpu]'` done in its .venv.
# VERB is train, or evaluate. The workdir must be on storage that all hosts have mounted.
set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
printf -v arguments ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd s1jax && JOIN_HOSTS=1 exec .venv/bin/python -m s1jax.${VERB:-train}$arguments"
