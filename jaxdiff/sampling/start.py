"""Start of a trajectory: noise of the first level, each sample's own."""

import math
import sys
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from jaxdiff.arrays import check
from jaxdiff.noise import start_noise
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Key

_LOOKED_AT = 2**16  # numbers of a start, at most


def start(
    key: Key,
    levels: Table | Sequence[float] | np.ndarray | Array | float,
    count: Array | Sequence[int] | int,
    shape: Sequence[int],
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """Return states (count, *shape) for a sampler to start from: its first level times the noise of
    :func:`start_noise`.

    Args:
        key: typed key.
        levels: a table, or the levels that one is made for, or the first of them.
        count: how many (then numbered 0, 1, ...), or (batch,) integers naming the samples.
        shape: of one sample.
        dtype: float32 or float64.

    Returns:
        (count, *shape) states of ``dtype``.

    Raises:
        ValueError: for fewer than one sample, a shape or a level that is none, or a padded table,
            which knows no levels.
        TypeError: for numbers of samples that are no integers.
    """
    known = levels.levels if isinstance(levels, Table) else levels
    if np.shape(known) == (0,):
        raise ValueError("there is no first level: a padded table knows none, give the level")
    first = known if np.ndim(known) == 0 else known[0]  # type: ignore[index, arg-type]
    known_level = "the first level must be finite and not negative"
    check(known_level, lambda s: 0 <= s < math.inf, first)  # type: ignore[arg-type]
    return jnp.asarray(first, dtype) * start_noise(key, count, shape, dtype)


def warn_unscaled(start: Array, level: float | Array) -> None:
    """Warn of states that have not the noise of their level: of N(0, 1) at level 80, say.

    Only where both are known. With n numbers of mean square x level^2, noise of the level would
    have so little with a probability of at most (x e^(1 - x))^(n/2) (Chernoff's bound), whatever
    data lie beneath it; below e^-14, with less than a third of the level, it is no chance. States
    of zeros, or at a level below 3, warn of nothing.
    """
    if isinstance(start, Tracer) or isinstance(level, Tracer) or not float(level) > 3:
        return
    here = start.addressable_shards[0].data if isinstance(start, jax.Array) else start
    rows = max(1, _LOOKED_AT // max(1, math.prod(here.shape[1:])))
    seen = np.asarray(here if len(here) <= rows else here[:rows], np.float64)
    size = float(np.sqrt(np.mean(seen**2)))
    x = (size / float(level)) ** 2
    if 0 < x < 1 / 9 and 0.5 * seen.size * (1 + math.log(x) - x) < -14:
        warnings.warn(
            f"the start has a root mean square of {size:.2g}, and its level is {float(level):.3g}: "
            "states are data plus level * noise, and from such a start all samples fall together. "
            "jaxdiff.start(key, table, count, shape) makes one, or multiply noise by the level",
            stacklevel=outside(),
        )


def outside() -> int:
    """Return how many calls up, from the caller's caller, the library was called."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] == "jaxdiff":
        frame, depth = frame.f_back, depth + 1
    return depth
