"""Several processes as one run: they connect, agree when to stop, and the main process writes and
prints.

Every process runs the same program on its own devices; jax joins them into one list of devices.
A process needs the address of process 0, how many there are and which it is. That
comes from the environment: explicitly, from JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES
and JAX_PROCESS_ID, or from the launcher, whose variables jax reads: Slurm's srun, Open MPI's
mpirun, an indexed Kubernetes job, a TPU slice of several hosts. A slice that shows itself in no
variable, only in its machine's metadata, is joined with JAXDIFF_HOSTS=on; JAXDIFF_HOSTS=off keeps a
process by itself, whatever launched it.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def launched(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what started several processes of this program, by its variables; None for one
    process.

    "explicit", "slurm" (a job step of several tasks), "ompi", "k8s" (an indexed job), "tpu" (a
    slice of several hosts) or "requested" (by JAXDIFF_HOSTS=on).
    """
    if (requested := environment.get("JAXDIFF_HOSTS", "")) in ("on", "off"):
        return "requested" if requested == "on" else None
    several = lambda name: int(environment.get(name) or 1) > 1  # noqa: E731
    if any(name in environment for name in EXPLICIT):
        return "explicit"
    if several("SLURM_STEP_NUM_TASKS") and "SLURM_PROCID" in environment:
        return "slurm"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "ompi"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "k8s"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or several("MEGASCALE_NUM_SLICES"):
        return "tpu"
    return None


def connect(environment: Mapping[str, str] = os.environ) -> str | None:
    """Join the other processes, if there are any; return what :func:`launched` says.

    To be called before anything is computed; a second call does nothing. Raises ValueError if the
    explicit variables are incomplete or do not fit, RuntimeError if the others do not answer.
    """
    kind = launched(environment)
    if kind is None or jax.distributed.is_initialized():
        return kind
    if kind != "explicit":
        jax.distributed.initialize()
        return kind
    if missing := [name for name in EXPLICIT if not environment.get(name)]:
        raise ValueError(f"{' and '.join(missing)} must be set, too: all of {', '.join(EXPLICIT)}")
    address, count, number = (environment[name] for name in EXPLICIT)
    if ":" not in address:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS is host:port; got {address!r}")
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise ValueError(
            f"JAX_PROCESS_ID is 0 to JAX_NUM_PROCESSES - 1; got {number!r} of {count!r} processes"
        )
    jax.distributed.initialize(address, int(count), int(number))
    return kind


def several() -> bool:
    """Return whether other processes take part in this run."""
    return jax.process_count() > 1


def is_main_process() -> bool:
    """Return whether this is the process that shows progress and writes what only one may write."""
    return jax.process_index() == 0


def anyone(flag: bool) -> bool:
    """Return whether ``flag`` is True in any process. All must call it, at the same point of the
    run.
    """
    if not several():
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def wait_for_all(where: str) -> None:
    """Return when every process has come to the point called ``where``."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def gather(value: Any) -> list[Any]:
    """Return what every process brought, in their order: plain values, as JSON has them. All must
    call.
    """
    if not several():
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(text.size))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: text.size] = text
    texts = multihost_utils.process_allgather(padded)
    return [json.loads(t[:n].tobytes()) for t, n in zip(texts, sizes, strict=True)]


def whole(tree: Any) -> Any:
    """Arrays that processes share as NumPy arrays, whole, in every process. All must call it."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)
