r"""Errors of steps: of one Euler step between any two levels, and of each step of any table.

Truncation errors. From a teacher's state x_i, its denoised output r_i known, an Euler step to any
later level costs no evaluation, and its distance from the teacher's own state there,

    c_ij = mean |x_i + (s_j - s_i) (x_i - r_i)/s_i - x_j|,

says where a curve bends: the cost that :mod:`jaxdiff.tuning.search.gits` minimises.

Local errors. With x the exact solution at a table's levels, and y_n the state that the table makes
at level s_n of exact states before it, evaluated exactly,

    local    |y_n - x_n|, what the step from s_{n-1} to s_n adds
    carried  |flow(y_n) - x_A|, y_n taken to the end by the exact flow: what it costs the sample

The carried errors say which step spends the error: the flow shrinks what is added at high levels in
directions in which the data vary little.

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, section 3 (c_ij); Karras et al., arXiv 2206.00364, section 3 and figure 13 (local
errors over noise levels); Hairer, Norsett and Wanner, Solving ordinary differential equations I,
section II.3 (local errors carried to the end).
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Float

from jaxdiff.analysis.points import distances, floating, same_shape
from jaxdiff.analysis.trajectory import chord_deviation
from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table as trace
from jaxdiff.solvers.heun import heun
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.typing import Array, Cond, Denoiser, Grid

Measure = Literal["l1", "l2", "dev"]


def truncation_errors(
    levels: Sequence[float] | np.ndarray | Array,
    states: Float[Array, "points batch *shape"],
    denoised: Float[Array, "evaluated batch *shape"],
    measure: Measure = "l2",
) -> np.ndarray:
    """Return what one Euler step costs between any two states of trajectories.

    Args:
        levels: (points,), strictly decreasing, the last one perhaps 0.
        states: (points, batch, *shape), accurately solved.
        denoised: the denoised output at each, or at all but the last.
        measure: "l1" or "l2", the norm of the difference from the state there; "dev", the
            difference of their distances from the chord between first and last state, signed.

    Returns:
        (points, points), the mean over the batch from one state to another, upper triangular, in
        float64 on the host.

    Raises:
        ValueError, TypeError: for an unknown measure, levels that do not decrease, or arrays that
            do not go together.

    Source: Chen et al., arXiv 2405.11326, section 3; "dev" from its published code.
    """
    if measure not in get_args(Measure):
        raise ValueError(f"measure is 'l1', 'l2' or 'dev', not {measure!r}")
    states, denoised = floating("states", states), floating("denoised", denoised)
    number = len(states)
    if np.shape(levels) != (number,) or len(denoised) not in (number - 1, number):
        raise ValueError(
            f"{number} states need as many levels, and denoised outputs for all or all but the "
            f"last; there are levels {np.shape(levels)} and {len(denoised)} outputs"
        )
    same_shape("states", states, "denoised", denoised)
    falling = "levels must decrease strictly, to 0 or above"
    check(falling, lambda s: (np.diff(s) < 0).all() and (s >= 0).all(), np.asarray(levels))
    costs = _jumps(jnp.asarray(levels, states.dtype), states, denoised, measure)
    costs = np.asarray(costs, np.float64)
    return np.pad(costs, [(0, number - len(costs)), (0, 0)])


@functools.partial(jax.jit, static_argnames="measure")
def _jumps(levels: Array, states: Array, denoised: Array, measure: Measure) -> Array:
    """Costs (evaluated states, states), one at a time: memory stays that of the path."""

    def distance(point: Array, state: Array) -> Array:
        if measure == "dev":
            return chord_deviation(point, states[0], states[-1])
        return norm(point - state) if measure == "l2" else _sum_absolute(point - state)

    bends = lax.map(lambda y: jnp.mean(distance(y, y)), states)  # 0 unless measured from the chord

    def cost(i: Array, j: Array) -> Array:
        jump = states[i] + (levels[j] - levels[i]) * ((states[i] - denoised[i]) / levels[i])
        return jnp.mean(distance(jump, states[j])) - bends[j]

    def row(i: Array) -> Array:
        return lax.map(lambda j: lax.cond(j > i, cost, lambda *_: none, i, j), every)

    every, none = jnp.arange(len(states)), jnp.zeros_like(bends[0])
    return lax.map(row, every[: len(denoised)])


def _sum_absolute(a: Array) -> Array:
    return jnp.sum(jnp.abs(a.reshape(len(a), -1)), axis=1)


class LocalErrors(NamedTuple):
    """Errors of the A steps of a table, each sample's own, Euclidean.

    levels: (A + 1,), step n goes from levels[n] to levels[n + 1]. local: (A, batch). carried:
    (A, batch), or None. total: (batch,), of the whole sampler. states: (A + 1, batch, *shape), the
    reference.
    """

    __repr__ = short

    levels: np.ndarray
    local: Array
    carried: Array | None
    total: Array
    states: Array

    @property
    def shares(self) -> np.ndarray:
        """Return the share (A,) of every step in the sum of root mean squares of the carried
        errors, or the local ones where those are all there is.
        """
        each = self.local if self.carried is None else self.carried
        sizes = np.sqrt(np.mean(np.asarray(each, np.float64) ** 2, axis=1))
        return sizes / max(sizes.sum(), np.finfo(np.float64).tiny)


def refined(
    levels: Sequence[float] | np.ndarray | Array, substeps: int, low: float = 0.002
) -> tuple[Grid, np.ndarray]:
    """Return a grid with every step divided, uniformly in level^(1/7).

    A step to 0 is divided down to ``low``, or not at all if it begins no higher: what is below is
    the denoised output there, as in every sampler's last step.

    Args:
        levels: (A + 1,), strictly decreasing.
        substeps: parts of each step, at least 1.
        low: the lowest level that the denoiser is evaluated at, positive.

    Returns:
        The grid, and the places (A + 1,) of the levels in it.

    Raises:
        ValueError: for levels that are no grid, or other numbers.
    """
    knots = np.array([float(s) for s in check_levels(levels)])
    if substeps < 1 or not low > 0:
        raise ValueError(f"substeps must be at least 1 and low positive; got {substeps} and {low}")
    grid, places = [knots[0]], [0]
    for s, r in zip(knots[:-1], knots[1:], strict=True):
        bottom = r if r > 0 else low
        if bottom < s * (1 - 1e-9):  # the lowest level of a grid is ``low`` but for rounding
            shares = np.arange(1, substeps + 1) / substeps
            between = (s ** (1 / 7) + shares * (bottom ** (1 / 7) - s ** (1 / 7))) ** 7
            grid += [*between[:-1], bottom]
        elif r > 0:
            grid.append(r)
        grid += [0.0] if r == 0 else []
        places.append(len(grid) - 1)
    return np.array(grid), np.array(places)


def reference_states(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    start: Array,
    cond: Cond = None,
    *,
    substeps: int = 32,
    low: float = 0.002,
) -> Float[Array, "points batch *shape"]:
    """Return an accurate solution of the probability flow at given levels.

    Heun's method with each step divided (:func:`refined`); its error falls with the square of
    ``substeps``.

    Args:
        denoiser: ``D(y, level, cond)``.
        levels: (A + 1,), strictly decreasing.
        start: (batch, *shape) at the first of them.
        cond: handed to the denoiser.
        substeps, low: as of :func:`refined`.

    Returns:
        (A + 1, batch, *shape); the last at level 0 is the denoised output at ``low``.

    Raises:
        ValueError, TypeError: as :func:`refined` and :func:`jaxdiff.trajectory`.
    """
    grid, places = refined(levels, substeps, low)
    return trajectory(denoiser, trace(heun, grid), start, cond).states[places]


def local_errors(
    denoiser: Denoiser,
    table: Table,
    start: Array,
    cond: Cond = None,
    *,
    substeps: int = 32,
    low: float = 0.002,
    carried: bool = True,
) -> LocalErrors:
    """Return the error that every step of a table makes, and what it costs the sample.

    The reference is :func:`reference_states`. Then the table runs once, every accepted state
    replaced by the reference's as soon as it is measured, so that a multistep solver remembers
    outputs of exact states too. For the carried errors all measured states follow the reference's
    method to the end, A trajectories for each sample.

    Args:
        denoiser: ``D(y, level, cond)``.
        table: deterministic, its levels decreasing; any solver, tuned tables too.
        start: (batch, *shape) at ``table.levels[0]``.
        cond: handed to the denoiser.
        substeps, low: as of :func:`refined`; raise ``substeps`` until nothing changes.
        carried: whether to follow the measured states to the end, which costs most.

    Returns:
        :class:`LocalErrors`.

    Raises:
        ValueError, TypeError: as :func:`jaxdiff.trajectory`; for a stochastic table, a padded one,
            or levels that do not decrease.

    Source: Karras et al., arXiv 2206.00364, section 3; Hairer, Norsett and Wanner, section II.3.
    """
    if table.stochastic or table.count is not None:
        raise ValueError(f"{table!r} draws noise or is padded: it has no local errors")
    D, levels = as_partial(denoiser), np.asarray(table.levels, np.float64)
    exact = reference_states(D, levels, start, cond, substeps=substeps, low=low)
    known = jnp.asarray(levels, start.dtype)
    pair = jnp.stack([start, start], axis=1)
    replace = Partial(_replace, known, exact)
    made = trajectory(Partial(_first_of_two, D), table, pair, cond, correct=replace)
    measured = made.states[1:, :, 1]
    local, end = distances(measured, exact[1:]), None
    total = norm(sample(D, table, start, cond) - exact[-1])
    if carried:
        ends = _carry(D, levels, measured, start, cond, substeps, low)
        end = distances(ends, exact[-1:])
    return LocalErrors(levels, local, end, total, exact)


def _first_of_two(D: Partial, y: Array, level: Array, cond: Cond = None, **options: Any) -> Array:
    """Denoise y[:, 0]; what is in y[:, 1] is a record that no step sees."""
    output = D(y[:, 0], level, cond, **options)
    return jnp.stack([output, jnp.zeros_like(output)], axis=1)


def _replace(levels: Array, exact: Array, y: Array, level: Array, key: None = None) -> Array:
    """Put the exact state of a level in place of y[:, 0], which is kept in y[:, 1]."""
    return jnp.stack([exact[jnp.argmax(levels == level)], y[:, 0]], axis=1)


def _carry(
    D: Partial,
    levels: np.ndarray,
    measured: Array,
    start: Array,
    cond: Cond,
    substeps: int,
    low: float,
) -> Array:
    """Return where the exact flow takes each measured state, (A, batch, *shape)."""
    copies = jnp.stack([start] * len(measured), axis=1)
    fine = trace(heun, refined(levels, substeps, low)[0])
    known = jnp.asarray(levels[1:], start.dtype)
    enter = Partial(_enter, known, jnp.moveaxis(measured, 0, 1))
    ends = sample(Partial(_each_copy, D), fine, copies, cond, correct=enter)
    return jnp.moveaxis(ends, 1, 0)


def _each_copy(D: Partial, y: Array, level: Array, cond: Cond = None) -> Array:
    return jax.vmap(lambda one: D(one, level, cond), in_axes=1, out_axes=1)(y)


def _enter(levels: Array, measured: Array, y: Array, level: Array, key: None = None) -> Array:
    """Put each measured state into its own copy at its own level."""
    here = (levels == level).reshape(1, -1, *[1] * (y.ndim - 2))
    return jnp.where(here, measured, y)
