"""Sampling with a table, whatever solver it came from.

Noise belongs to the sample: draw q of evaluation n of sample i comes from key
fold_in(fold_in(fold_in(key, i), n), q), so that sample i is the same picture in any batch, on any
number of devices.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from jaxdiff import inline
from jaxdiff.brief import short
from jaxdiff.sampling.run import checked_run
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Correct, Denoiser, Key, States


class Trajectory(NamedTuple):
    """A sampling trajectory.

    states: (A + 1, batch, *shape), the start and every accepted state.
    levels: (A + 1,), their noise levels.
    denoised: (N, batch, *shape), every output of the denoiser in order.
    nodes: (N,), the levels it was evaluated at.
    """

    __repr__ = short

    states: Float[Array, "accepted batch *shape"]
    levels: Float[Array, " accepted"]
    denoised: Float[Array, "nfe batch *shape"]
    nodes: Float[Array, " nfe"]

    def _repr_html_(self) -> str:
        """Show some samples on their way in a notebook: images, or paths of the first two numbers,
        each state divided by sqrt(1 + level^2).
        """
        line = inline.paragraph(repr(self))
        if isinstance(self.states, Tracer) or self.states.ndim < 3:
            return line
        samples, most = inline.SHOWN
        kept = inline.chosen(len(self.states), most)
        levels = np.asarray(self.levels, np.float64)[kept]
        states = np.asarray(self.states[jnp.asarray(kept), :samples], np.float64)
        states = states / np.sqrt(1 + levels**2).reshape(-1, *[1] * (states.ndim - 1))
        if states.ndim == 5 and states.shape[-1] in (1, 3):
            return line + inline.image_strip(states.swapaxes(0, 1))
        return line + inline.path_plot(states.reshape(*states.shape[:2], -1)[..., :2])


def sample(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    correct: Correct | None = None,
    unroll: int | bool = 1,
    remat: bool = False,
) -> States:
    """Sample with a table.

    Args:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``. As a ``jax.tree_util.Partial`` its parameters
            are arguments of the compiled program; a plain function works too and is compiled anew
            for each new function object.
        table: from :func:`jaxdiff.sampling.trace.table`, a file, or training.
        start: states (batch, *shape) at noise level ``table.levels[0]``, float32 or float64;
            usually of :func:`jaxdiff.sampling.start.start`.
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        key: typed key for stochastic tables, and for ``correct``.
        index: (batch,) integers naming the samples; 0, 1, ... by default. The noise of a sample
            depends on ``key`` and its index alone.
        noise: recorded noise (draws, batch, *shape) in the order the solver draws it, instead of
            ``key``.
        correct: ``correct(y, level, key) -> y``, applied to every accepted state, which it
            replaces (:mod:`jaxdiff.sampling.correction`).
        unroll: as in ``jax.lax.scan``. On CPU, gradients of convolutions inside a loop are about
            fifty times slower than unrolled: pass True there when differentiating.
        remat: recompute each evaluation in the backward pass instead of storing its activations. On
            CPU that saves nothing together with ``unroll=True``
            (experiments/results/tuning_memory.md).

    Returns:
        The last state, of the shape and dtype of ``start``.

    Raises:
        ValueError, TypeError: before anything is compiled, if the arguments do not fit together.
    """
    return checked_run(
        denoiser, table, start, cond, key, index, noise, correct, unroll, remat, whole=False
    )  # fmt: skip


def trajectory(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    key: Key | None = None,
    index: Array | None = None,
    noise: Array | None = None,
    correct: Correct | None = None,
    unroll: int | bool = 1,
    remat: bool = False,
) -> Trajectory:
    """Sample and return the whole trajectory. Arguments as in :func:`sample`; a padded table has
    no trajectory.

    Args:
        denoiser: ``D(y, level, cond)``.
        table: as for :func:`sample`, and not padded.
        start: states (batch, *shape) at ``table.levels[0]``.
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        key, index, noise: as for :func:`sample`.
        correct: ``correct(y, level, key) -> y``, applied to every accepted state.
        unroll, remat: as for :func:`sample`.

    Returns:
        Accepted states, their levels, and the denoised outputs of all evaluations with their nodes.

    Raises:
        ValueError, TypeError: as :func:`sample`, and for a padded table.
    """
    return Trajectory(*checked_run(
        denoiser, table, start, cond, key, index, noise, correct, unroll, remat, whole=True
    ))  # fmt: skip
