r"""Inversion: the noise that a picture comes from.

The probability-flow ODE dy/ds = (y - D)/s = eps(y, s) is a bijection between data and latents
z = y_T/s_T, and any deterministic solver, run on the reversed grid, takes data to noise. What one
step up does and a step down undoes differ by the solver's error, so that this round trip is exact
only in the limit of many steps. A fixed point is exact at any number of them: the state that the
step down would take to the one at hand,

    Y <- Y + y - step(Y; r -> s),        a contraction for small steps,

which for Euler (DDIM) is the implicit Euler step up, y_r = y_s + (r - s) eps(y_r, r). Solvers that
are invertible in closed form (:func:`jaxdiff.solvers.edict`, :func:`jaxdiff.solvers.bdia`) carry
two states, and so does what :func:`encode` finds.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.direct import execute
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.solver_options import check_options, check_solver, solver_name
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.table_inverse import invert_table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.bdia import bdia, bdia_inverse
from jaxdiff.solvers.edict import edict, edict_inverse
from jaxdiff.solvers.scalar import D, Scalar, State, check_levels, is_zero, sqrt
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Cond, Denoiser, Solver

Levels = Sequence[Scalar] | np.ndarray | Array


def inverse_table(solver: Solver, levels: Levels, **options: Any) -> Table:
    """Trace a deterministic solver on the reversed grid: a table that takes data to noise.

    Args:
        solver: any deterministic textbook solver, or :func:`fixed_point`.
        levels: the decreasing grid of the sampler to be inverted. Data are taken for states at its
            last level, which must not be 0.
        options: handed to the solver.

    Returns:
        A table whose start is the data and whose levels increase; it is run, differentiated and
        saved like any other, and ends in the state at ``levels[0]``.

    Raises:
        ValueError: for a stochastic solver, or a grid that :func:`jaxdiff.sampling.trace.table`
            refuses or that ends in 0.
        TypeError: an option that the solver does not have.
    """
    check_solver(solver)
    name = solver_name(solver)
    if check_options(solver, options):
        raise ValueError(
            f"{name} draws noise, so it has no inverse: invert a deterministic solver, such as "
            "euler, heun or dpmpp"
        )
    if is_zero(check_levels(levels)[-1]):
        raise ValueError(
            "inversion starts at the lowest level, which must be positive: leave out the final 0"
        )

    @functools.wraps(solver)
    def upwards(D: D, y: State, levels: Sequence[Scalar], **options: Any) -> Iterator[State]:
        yield from solver(D, y, levels[::-1], **options)

    made = table(upwards, levels, name=f"{name} inverse", **options)
    return dataclasses.replace(made, levels=made.levels[::-1])


def invert(
    denoiser: Denoiser,
    solver: Solver | Table,
    levels: Levels | None,
    data: Array,
    cond: Cond = None,
    *,
    unroll: int | bool = 1,
    remat: bool = False,
    **options: Any,
) -> Array:
    """Return latents z = y_T/s_T of data, (batch, *shape): about N(0, I) for data of the model.

    ``levels[0] * z`` is the start from which ``table(solver, levels)`` returns to the data, up to
    the solver's error. With ``euler`` this is DDIM inversion (arXiv 2010.02502, section 4.3).

    Args:
        denoiser: ``D(y, level, cond)``.
        solver, levels, options: as for :func:`inverse_table`; or a table, tuned or not, with levels
            None, whose weights :func:`jaxdiff.sampling.table_inverse.invert_table` inverts, with
            its options.
        data: (batch, *shape), taken for states at ``levels[-1]``.
        cond, unroll, remat: as for :func:`jaxdiff.sampling.sample.sample`.

    Returns:
        Latents (batch, *shape), in units of ``levels[0]``.

    Raises:
        ValueError, TypeError: as :func:`inverse_table`, before anything is compiled.
        RuntimeError: as :func:`jaxdiff.sampling.table_inverse.invert_table`.
    """
    if isinstance(solver, Table):
        _check_own(solver, levels, unroll, remat)
        return invert_table(denoiser, solver, data, cond, **options)
    if levels is None:
        raise TypeError(f"{solver_name(solver)} is inverted on a grid: give its levels")
    made = inverse_table(solver, levels, **options)
    latent = sample(denoiser, made, data, cond, unroll=unroll, remat=remat)
    return latent / jnp.asarray(made.levels[-1], latent.dtype)


def _check_own(made: Table, levels: Any, unroll: int | bool, remat: bool) -> None:
    """Raise ValueError for what does not go with a table that is inverted."""
    if unroll != 1 or remat:
        raise ValueError("unroll and remat are of a solver that is run on the reversed grid")
    if levels is not None and not np.array_equal(np.asarray(levels), np.asarray(made.levels)):
        raise ValueError(f"{made!r} has levels of its own: give None for levels")


def fixed_point(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    step: Callable[[D, State, Scalar, Scalar], State] = euler_step,
    iterations: int = 10,
) -> Iterator[State]:
    """Inverse of a single-step solver, on increasing levels: Y <- Y + y - step(Y).

    In a step from s up to r an iteration shrinks the error by about (1 - s/r)(1 - dD/dy) (Euler).
    The first Y is y brought to the norm of the level r, the same x as y in the variance-preserving
    frame: one iteration for ``euler_step`` is then DDIM inversion as published for such models, the
    network conditioned on the level that the step goes to and shown the x where it starts.

    Args:
        step: the step to invert: ``euler_step``, ``heun_step`` or ``dpm2_step``.
        iterations: applications of ``step`` for each step of the grid, at least 1.
    """
    if iterations < 1:
        raise ValueError(f"fixed_point needs at least 1 iteration, not {iterations}")
    for s, r in pairwise(levels):
        found = sqrt((1.0 + r * r) / (1.0 + s * s)) * y
        for _ in range(iterations):
            found = found + (y - step(D, found, r, s))
        y = found
        yield y


class LatentStatistics(NamedTuple):
    """Normality of latents, beside what is expected of d standard normal numbers in n samples.

    norm: (batch,), norm of z over sqrt(d), 1 within about 1/sqrt(2 d).
    mean, variance, kurtosis: (*shape), over the batch; 0, 1 and (excess) 0 within about 1/sqrt(n),
        sqrt(2/n) and sqrt(24/n).
    correlation: (*shape), with the data, 0 within about 1/sqrt(n); None without data. What is left
        of the data in z shows where a solver's first steps up went wrong.
    """

    __repr__ = short

    norm: Array
    mean: Array
    variance: Array
    kurtosis: Array
    correlation: Array | None


def latent_statistics(latent: Array, data: Array | None = None) -> LatentStatistics:
    """Statistics of latents (batch, *shape), as from :func:`invert`, that show whether they are
    noise.

    Raises ValueError for a batch of one, or where ``data`` has another shape.
    """
    if latent.shape[0] < 2:
        raise ValueError("statistics over the batch need at least two latents")
    if data is not None and data.shape != latent.shape:
        raise ValueError(f"data {data.shape} and latents {latent.shape} must have the same shape")
    norm = jnp.sqrt(jnp.mean(jnp.square(latent.reshape(latent.shape[0], -1)), axis=1))
    apart = latent - latent.mean(0, keepdims=True)
    variance = jnp.mean(apart**2, axis=0)
    kurtosis = jnp.mean(apart**4, axis=0) / variance**2 - 3
    correlation = None
    if data is not None:
        other = data - data.mean(0, keepdims=True)
        product = jnp.mean(apart * other, axis=0)
        correlation = product / jnp.sqrt(variance * jnp.mean(other**2, axis=0))
    return LatentStatistics(norm, latent.mean(0), variance, kurtosis, correlation)


_INVERSES: dict[Solver, Solver] = {edict: edict_inverse, bdia: bdia_inverse}


def encode(
    denoiser: Denoiser,
    solver: Solver,
    levels: Levels,
    data: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    """Return both latents of data, (batch, 2, *shape) in units of ``levels[0]``, by an exact
    inverse.

    The first of the two is the latent z of the state at ``levels[0]``; :func:`decode` needs both.

    Args:
        denoiser: ``D(y, level, cond)``.
        solver: ``edict`` or ``bdia``, of :mod:`jaxdiff.solvers`.
        levels: the sampler's decreasing grid, which may end in 0.
        data: (batch, *shape), states at ``levels[-1]``.
        cond: handed to the denoiser.
        options: handed to the solver.

    Returns:
        Latents (batch, 2, *shape), in units of ``levels[0]``.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
    """
    _check_reversible(solver, options)

    def upwards(D: D, y: State, levels: Sequence[Scalar]) -> Iterator[State]:
        *_, pair = _INVERSES[solver](D, y, levels, **options)
        yield jnp.stack(pair, axis=1)

    check_start(data, None)
    knots = check_levels(levels)
    states = execute(denoiser, upwards, knots, data, cond, None, None, None, {})
    return states / jnp.asarray(levels[0], states.dtype)


def decode(
    denoiser: Denoiser,
    solver: Solver,
    levels: Levels,
    latents: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    """Return data (batch, *shape) that :func:`encode` made the latents of, given the same
    arguments.

    With other ``cond`` this is an edit. Raises ValueError unless there are two latents per sample.

    Args:
        denoiser: ``D(y, level, cond)``.
        solver: ``edict`` or ``bdia``, as given to :func:`encode`.
        levels: the sampler's decreasing grid, as given to :func:`encode`.
        latents: (batch, 2, *shape), of :func:`encode`.
        cond: handed to the denoiser; its leaves are batch first, or one number for all.
        options: handed to the solver.

    Returns:
        Data, (batch, *shape).
    """
    _check_reversible(solver, options)
    check_start(latents, None)
    if latents.ndim < 2 or latents.shape[1] != 2:
        raise ValueError(f"latents must have shape (batch, 2, ...), not {latents.shape}")

    def downwards(D: D, y: Array, levels: Sequence[Scalar]) -> Iterator[State]:
        yield from solver(D, (y[:, 0], y[:, 1]), levels, **options)

    start = latents * jnp.asarray(levels[0], latents.dtype)
    # not direct, which would check that both states have the first level's noise
    return execute(denoiser, downwards, check_levels(levels), start, cond, None, None, None, {})


def _check_reversible(solver: Solver, options: dict[str, Any]) -> None:
    check_solver(solver)
    if solver not in _INVERSES:
        raise ValueError(
            f"{solver_name(solver)} is not exactly invertible: use edict or bdia, or invert for an "
            "approximate inverse"
        )
    check_options(solver, options)
