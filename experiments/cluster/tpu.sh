#!/bin/bash
# Train (or distil, tune, sample) on all hosts of a Cloud TPU slice.
#
#   TPU=my-slice ZONE=us-central2-b experiments/cluster/tpu.sh setup
#   TPU=my-slice ZONE=us-central2-b experiments/cluster/tpu.sh train cifar10 \
#       --run /mnt/shared/runs/cifar10 --data.path /mnt/shared/cifar10.zip
#
# `setup` copies this checkout to every host and installs it; any other first word is a command of
# jaxdiff. The run's folder must be on a disk that all hosts see (a mounted bucket or Filestore).

set -euo pipefail
: "${TPU:?the name of the slice}" "${ZONE:?its zone}"
root=$(cd "$(dirname "$0")/../.." && pwd)
everywhere() { gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$1"; }

if [ "$1" = setup ]; then
    tar -C "$root" -cz --exclude .git --exclude runs . > "${TMPDIR:-/tmp}/jaxdiff.tar.gz"
    gcloud compute tpus tpu-vm scp "${TMPDIR:-/tmp}/jaxdiff.tar.gz" "$TPU": --zone "$ZONE" --worker=all
    everywhere 'mkdir -p jaxdiff && tar -xzf jaxdiff.tar.gz -C jaxdiff &&
        python3 -m venv venv && venv/bin/pip install -q -e "./jaxdiff[tpu]"'
else
    # A slice's hosts learn of each other by the metadata of their machines: JAXDIFF_HOSTS=on has
    # jax look there. A command must be started on all hosts, or those that were wait for the rest.
    everywhere "JAXDIFF_HOSTS=on venv/bin/jaxdiff $(printf '%q ' "$@")"
fi
