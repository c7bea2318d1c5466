"""What is measured of a run beside its losses: learning rate, samples per second, memory.

An optax transformation does not say its learning rate. One made by :func:`rated` does, and
otherwise is the one that it was made of.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxdiff.method import Batch, Method
from jaxdiff.training.step import due


class Rated(optax.GradientTransformationExtraArgs):
    """An optax transformation with its learning rate, a function of the updates made before."""

    rate: Callable[[Any], Any]


def rated(optimiser: optax.GradientTransformation, rate: float | Callable[[Any], Any]) -> Rated:
    """Return an optimiser that says its learning rate.

    Args:
        optimiser: an optax transformation.
        rate: its learning rate, a number or a schedule: a function of the updates made before.

    Returns:
        The same transformation, with ``rate``.
    """
    same = Rated(optimiser.init, optax.with_extra_args_support(optimiser).update)
    same.rate = rate if callable(rate) else lambda n: rate
    return same


class Measures:
    """Measurements of a run of a method from a step on."""

    def __init__(self, method: Method, step: int, batch_size: int | None = None) -> None:
        self.method, self.batch_size = method, batch_size
        self.counted, self.updates = 0, dict.fromkeys(method.players, 0)
        self.began, self.samples, self.calls = 0.0, 0, 0
        self.compiled: float | None = None  # when the second step began
        self._count(step)

    def saw(self, batch: Batch) -> None:
        """Count the samples of a step that is about to be made. The first is not measured: it
        compiles.
        """
        self.calls += 1
        if self.calls == 2:
            self.began = self.compiled = time.monotonic()
        if self.calls >= 2:
            rows = (len(x) for x in jax.tree.leaves(batch) if np.ndim(x))
            self.samples += self.batch_size or next(rows, 0)

    def at(self, step: int) -> dict[str, float]:
        """Return what is measured since the last call, after a step."""
        self._count(step)
        found = {"memory_gb": memory_gb()}
        for name, player in self.method.players.items():
            rate = getattr(player.optimiser, "rate", None)
            if rate is not None and self.updates[name]:
                found[f"{name}/learning_rate"] = float(rate(self.updates[name] - 1))
        now = time.monotonic()
        if self.samples and now > self.began:
            found["samples_per_second"] = self.samples / (now - self.began)
            self.began, self.samples = now, 0
        return found

    def seconds_left(self, updates: int) -> float:
        """Return the time that so many updates will take, the first time it is asked for after some
        were made; 0 afterwards.
        """
        if self.compiled is None:
            return 0.0
        each, self.compiled = (time.monotonic() - self.compiled) / (self.calls - 1), None
        return updates * each

    def _count(self, step: int) -> None:
        """Count each player's updates up to a step."""
        for number in range(self.counted, step):
            for name in due(self.method, number):
                self.updates[name] += 1
        self.counted = step


def memory_gb() -> float:
    """Return the most memory used so far, in units of 1e9 bytes: of the fullest device, or of the
    process where devices do not say.
    """
    known = [device.memory_stats() or {} for device in jax.local_devices()]
    most = max(stats.get("peak_bytes_in_use", 0) for stats in known)
    return (most or resident()) / 1e9


def resident() -> int:
    """Return the process's largest resident set so far in bytes; 0 where the system does not say.

    Linux adds to getrusage's number that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM")), 0)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
