"""Teacher trajectories: accurate solutions with the denoised output at every state.

With lambda = -log s the probability flow is dy/dlambda = D(y, s) - y, so states and outputs give
the solution and its slope, and cubic Hermite interpolation gives the state at any level between,
differentiable in the level, with an error of fourth order in the spacing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser


class Path(NamedTuple):
    """Trajectories of a batch.

    levels: (M + 1,), decreasing and positive. states: (M + 1, batch, *shape). denoised: of the same
    shape, the denoised output at every state. end: (batch, *shape), the teacher's sample, which is
    at level 0 or at the last of ``levels``.
    """

    __repr__ = short

    levels: Array
    states: Array
    denoised: Array
    end: Array

    def at(self, level: Array) -> Array:
        """Return the states (batch, *shape) at a level from the first to the last."""
        times, time = -jnp.log(self.levels), -jnp.log(level)
        last = self.levels.shape[0] - 2
        i = jnp.clip(jnp.searchsorted(times, time, side="right") - 1, 0, last)
        h = times[i + 1] - times[i]
        u = (time - times[i]) / h
        slopes = self.denoised - self.states
        left, right = (1 + 2 * u) * (1 - u) ** 2, u * u * (3 - 2 * u)
        rise, fall = h * u * (1 - u) ** 2, h * u * u * (u - 1)
        ends = left * self.states[i] + right * self.states[i + 1]
        return ends + rise * slopes[i] + fall * slopes[i + 1]


def path_of(batch: Mapping[str, Any]) -> Path:
    """Return the trajectories of a batch, which has the batch first in every array: "levels"
    (batch, M + 1), all rows equal, "states" and "denoised" (batch, M + 1, *shape), and "image",
    their ends.
    """
    states, denoised = (jnp.moveaxis(batch[k], 1, 0) for k in ("states", "denoised"))
    return Path(batch["levels"][0], states, denoised, batch["image"])


def follow(denoiser: Denoiser, table: Table, start: Array, cond: Cond = None) -> Path:
    """Solve from ``start`` (batch, *shape) with a fine deterministic table.

    Costs one evaluation per accepted state more than the table itself.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        table: fine, deterministic, of the teacher.
        start: (batch, *shape) states at the table's first level.
        cond: handed to the denoiser.

    Returns:
        States, denoised outputs and levels of the trajectory, and its end.

    Raises:
        ValueError: for a stochastic table.
    """
    if table.stochastic:
        raise ValueError("a teacher's trajectory needs a deterministic sampler; this draws noise")
    D, solved = as_partial(denoiser), trajectory(denoiser, table, start, cond)
    inner = len(table.levels) - int(np.asarray(table.levels)[-1] == 0)
    levels, states = solved.levels[:inner], solved.states[:inner]
    return Path(levels, states, _outputs(D, states, levels, cond), solved.states[-1])


@jax.jit
def _outputs(D: Denoiser, states: Array, levels: Array, cond: Cond) -> Array:
    return jax.lax.map(lambda pair: D(pair[0], pair[1], cond), (states, levels))
