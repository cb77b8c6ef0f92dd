#!/usr/bin/env bash
# Makes the embedded default's base model again (some 35 minutes on 2 cores), puts it into its place,
# and its digest into the package. Another CPU rounds otherwise: the digest will be another one.
#   launch/mini_base.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
workdir=runs/mini-base
base=s1jax/mini/base
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
if [ ! -d "$workdir/checkpoints" ]; then # else a run that was stopped goes on
    "$python" -m s1jax.mini.pretraining "$workdir"
fi
"$python" -m s1jax.train --config=configs/mini_base.py --workdir="$workdir"
# Once more, on longer texts: thinking goes on where the first ones have ended.
"$python" -m s1jax.train --config=configs/mini_base.py --workdir="$workdir/long" \
    --config.model.path="$workdir/hf" --config.data.path="$workdir/long.jsonl" \
    --config.data.row_length=256 --config.data.batch_size=8 --config.optimizer.learning_rate=1e-3
for file in model.safetensors config.json generation_config.json tokenizer.json tokenizer_config.json; do
    install -m 644 "$workdir/long/hf/$file" "$base/$file"
done
digest=$(sha256sum "$base/model.safetensors" | cut -d " " -f 1)
sed -i "s/^_SHA256 = .*/_SHA256 = \"$digest\"/" s1jax/mini/__init__.py
echo "$base: $digest"
