r"""The search of PAS (arXiv 2411.06503): corrections that bring samples nearer to a teacher's.

One time point after another, from high noise to low, Adam moves the coordinates C of
:mod:`jaxdiff.tuning.learned.pas` to lower the mean absolute distance of the next states to the
teacher's; a time point keeps its correction only where that gains.

Deviations from the published code. The rows are not centred: d_i itself is u_1, and nothing of the
span is lost. The first time point is corrected, too, in the directions that it has: at y = x_T it
is <x_T, u_k> that is positive. Where the history has no further direction (rank r < 4: the first
time points, data of two dimensions) u_k is 0 and C_k has no effect. An update sees all samples, not
64 of them, so that 1000 updates are fewer than its 1000 epochs; a time point is done after
``patience`` updates without a new least loss, not when ten losses in a row are within 1e-5, and
keeps its best coordinates, not its last. The tolerance is one for all time points, where that code
has another for the first that is corrected (1e-4 like the others', or 0.01).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdiff.arrays import einsum
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import absolute, norm
from jaxdiff.ranges import Count, Natural, NotNegative, Positive, in_range
from jaxdiff.sampling.checks import check_start
from jaxdiff.tuning.learned.pas import (
    Corrections,
    Point,
    Walk,
    begin,
    check_corrections,
    look,
    move,
    states_of,
    time_points,
    uncorrected,
)
from jaxdiff.tuning.learned.path import Path
from jaxdiff.typing import Array, Cond, Denoiser


class Errors(NamedTuple):
    """Mean absolute distance to the teacher after every step, (num_steps,), of the plain solver and
    of the corrected one.
    """

    __repr__ = short

    plain: Array
    corrected: Array


def pas_errors(
    denoiser: Denoiser,
    corrections: Corrections,
    start: Array,
    targets: Array | Path,
    cond: Cond = None,
) -> Errors:
    """Return what corrections are worth on samples they were not made from. Arguments and errors as
    for :func:`pas` and :func:`pas_search`.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        corrections: made from other samples.
        start: (batch, *shape) states at the first level.
        targets: (num_steps + 1, batch, *shape), the teacher's states from the same start, or its
            path.
        cond: handed to the denoiser.

    Returns:
        Mean absolute distances to the teacher after every step, (num_steps,), of the plain solver
        and of the corrected one.

    Raises:
        ValueError, TypeError: as :func:`pas` and :func:`pas_search`.
    """
    check_corrections(corrections)
    check_start(start, None)
    D, wanted = as_partial(denoiser), _targets(targets, corrections.levels, start)
    unused = np.zeros(len(corrections.levels) - 1, bool)
    both = [dataclasses.replace(corrections, used=unused), corrections]
    distances = jax.vmap(lambda a, b: jnp.mean(absolute(a, b)))
    return Errors(*(distances(states_of(D, c, start, cond, 1), wanted) for c in both))


def _targets(targets: Array | Path, levels: Array | np.ndarray, start: Array) -> Array:
    """Return the teacher's states after every step, (num_steps, batch, *shape)."""
    if isinstance(targets, Path):
        return jnp.stack([_state_at(targets, float(s)) for s in levels[1:]]).astype(start.dtype)
    if targets.shape != (len(levels), *start.shape):
        raise ValueError(
            f"targets are the teacher's states at all levels, {(len(levels), *start.shape)}; "
            f"these have shape {targets.shape}"
        )
    return jnp.asarray(targets[1:], start.dtype)


def _state_at(path: Path, level: float) -> Array:
    high, low = float(path.levels[0]), float(path.levels[-1])
    if level == 0 and not np.array_equal(path.end, path.states[-1]):
        return path.end
    if not low * (1 - 1e-6) <= level <= high * (1 + 1e-6):
        raise ValueError(f"the teacher goes from level {high:g} to {low:g}, not to {level:g}")
    return path.at(jnp.asarray(level, path.levels.dtype))


@in_range
def pas_search(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray,
    start: Array,
    targets: Array | Path,
    cond: Cond = None,
    *,
    order: int = 1,
    from_start: bool = True,
    relative: bool = False,
    learning_rate: Positive = 0.01,
    num_updates: Natural = 1000,
    patience: Count = 10,
    tolerance: NotNegative = 1e-4,
) -> Corrections:
    """Find corrections that bring the samples nearer to a teacher's.

    Time points are dealt with in order. At each the network is evaluated once, and Adam moves C
    from (mean |d|, 0, 0, 0) to lower the mean absolute distance of the next state to the teacher's.
    Corrections are greedy, so that the last state need not gain. :func:`pas_errors` measures, on
    samples kept apart. The paper has 5,000 trajectories of Heun's method with 100 evaluations on a
    Karras grid, and iPNDM of order 3.

    Args:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``.
        levels: strictly decreasing noise levels; only the last may be 0.
        start: (batch, *shape) states at ``levels[0]``. Memory is (num_steps + 1) times theirs.
        targets: (num_steps + 1, batch, *shape), the teacher's states at ``levels`` from the same
            start, or a :class:`jaxdiff.tuning.learned.path.Path`.
        cond: handed to the denoiser.
        order: of the solver, 1 (Euler) to 4 (iPNDM).
        from_start: whether x_T is a row of the history.
        relative: coordinates in units of each sample's own |d|, beginning with (1, 0, 0, 0), the
            plain step. In the paper's absolute units u_1 has the same length for all samples, which
            is right only where all |d| are nearly alike: images of many pixels.
        learning_rate: of Adam, in units of C.
        num_updates: at most, for each time point.
        patience: updates without a new least loss after which a time point is done.
        tolerance: a correction is kept if it lowers the distance by more than this.

    Returns:
        The corrections, with ``losses`` before and after for every time point.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
        FloatingPointError: if a loss is not finite; it names the time point.
    """
    plain = uncorrected(levels, order, from_start, relative)
    check_start(start, None)
    D, wanted = as_partial(denoiser), _targets(targets, plain.levels, start)
    points = time_points(plain.levels, order, start.dtype)
    limits = (learning_rate, num_updates, patience)
    walk, found = begin(start, len(wanted), order, from_start), []
    for i, target in enumerate(wanted.reshape(len(wanted), *walk.y.shape)):
        point = jax.tree.map(lambda a, i=i: a[i], points)
        walk, d, axes = _look_once(D, walk, start, point, cond, relative)
        first = jnp.eye(4, dtype=d.dtype)[0] * (1.0 if relative else jnp.mean(norm(d)))
        coordinates, before, after = _fit(walk, point, d, axes, target, first, limits)
        if not np.isfinite([before, after]).all():
            raise FloatingPointError(
                f"time point {i} (level {plain.levels[i]:g} to {plain.levels[i + 1]:g}): the loss "
                f"is {float(before)} before and {float(after)} after; look at the denoiser's "
                "output and the targets there"
            )
        used = bool(before - after > tolerance)
        walk = _move_once(walk, point, d, axes, coordinates, jnp.asarray(used))
        found.append((np.asarray(coordinates, np.float64), used, (float(before), float(after))))
    coordinates, used, losses = (np.array(column) for column in zip(*found, strict=True))
    return dataclasses.replace(plain, coordinates=coordinates, used=used, losses=losses)


_look_once, _move_once = jax.jit(look, static_argnames="relative"), jax.jit(move)


@jax.jit
def _fit(
    walk: Walk,
    point: Point,
    d: Array,
    axes: Array,
    target: Array,
    first: Array,
    limits: tuple[Any, ...],
) -> tuple[Array, Array, Array]:
    """Return the best coordinates of a time point, and the loss without and with them."""
    learning_rate, updates, patience = limits
    frame = einsum("bkm,bmn->bkn", axes, walk.seen.frame)

    def distance(direction: Array) -> Array:
        return jnp.mean(absolute(walk.y + (point.r - point.s) * direction, target))

    def loss(coordinates: Array) -> Array:
        return distance(einsum("k,bkn->bn", coordinates, frame))

    optimiser = optax.adam(jnp.asarray(learning_rate, d.dtype))

    def going(fit: _Fit) -> Array:
        return (fit.count < updates) & (fit.count - fit.when < patience)

    def update(fit: _Fit) -> _Fit:
        with jax.numpy_dtype_promotion("standard"):  # optax has decay ** count
            change, state = optimiser.update(jax.grad(loss)(fit.now), fit.state)
        now: Any = optax.apply_updates(fit.now, change)
        value, count = loss(now), fit.count + 1
        better = value < fit.least
        best, when = jnp.where(better, now, fit.best), jnp.where(better, count, fit.when)
        return _Fit(now, state, count, best, jnp.where(better, value, fit.least), when)

    zero = jnp.int32(0)
    fit = lax.while_loop(
        going, update, _Fit(first, optimiser.init(first), zero, first, loss(first), zero)
    )
    return fit.best, distance(d), fit.least


class _Fit(NamedTuple):
    """Progress of an optimisation: the latest coordinates, how many updates, the best so far, and
    when they were found.
    """

    now: Array
    state: Any
    count: Array
    best: Array
    least: Array
    when: Array
