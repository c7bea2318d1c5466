r"""PCA-based adaptive search (PAS, arXiv 2411.06503): a few numbers that correct a solver's steps.

The directions of a sample's trajectory lie, nearly, in a space of two or three dimensions that the
steps so far already span. At time point i with state y, start x_T and direction d = (y - D(y, s))/s
every sample makes an orthonormal basis of its own,

    u_1 = d / |d|,
    u_2, u_3, u_4:  the first three right-singular vectors of the rows x_T, d_0, ..., d_(i-1), d,
                    made orthogonal to u_1 (Gram-Schmidt), with <y - x_T, u_k> > 0,

and the step, and the history, take in place of d the corrected direction

    sum_k C_k u_k,      C in R^4 of the time point, shared by all samples.

The solver is Euler's (DDIM) or iPNDM. :func:`pas_search` finds C from teacher states, one time
point after another from high noise to low; a time point keeps its correction only where that brings
the samples nearer to the teacher.

Conventions. The rows are not centred (published code centres them): d itself is u_1, and nothing of
the span is lost. At the first time point, where y = x_T, it is <x_T, u_k> that is positive. Where
the history has no further direction (rank r < 4: the first time points, data of two dimensions) u_k
is 0 and C_k has no effect.

Numbers. The rows are all but parallel, and their Gram matrix has what sets them apart squared: in
float32 it makes u_4 of the first steps noise, another one in every sample (tests/test_pas.py).
Instead each sample keeps an orthonormal frame of its history, grown by Gram-Schmidt twice per row,
and all else is done on coordinates in that frame: matrices (m, m) with m the rows of the history. A
direction that rounding does not resolve counts as missing.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdiff.distance import absolute, norm
from jaxdiff.files import read_json, real_array, write_text
from jaxdiff.prediction import as_partial
from jaxdiff.process import check
from jaxdiff.sampling.sample import check_start
from jaxdiff.solvers.multistep import ADAMS_BASHFORTH
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.tuning.path import Path
from jaxdiff.typing import Array, Cond, Denoiser

FORMAT = "jaxdiff-pas-1"
_einsum = functools.partial(jnp.einsum, precision="highest")  # not TF32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corrections:
    """A solver with its corrected directions: a pytree, to be run by :func:`pas`.

    levels: (steps + 1,) decreasing noise levels. coordinates: (steps, 4), C of every time point.
    used: (steps,) bool, which time points are corrected. losses: (steps, 2), mean absolute distance
    to the teacher before and after each correction, as :func:`pas_search` found them, or None.
    order: of the solver, 1 (Euler) to 4 (iPNDM). from_start: whether x_T is a row of the history.
    relative: whether coordinates are in units of each sample's |d| (else in absolute units, as in
    the paper).
    """

    levels: Array | np.ndarray
    coordinates: Array | np.ndarray
    used: Array | np.ndarray
    losses: Array | np.ndarray | None = None
    order: int = dataclasses.field(default=1, metadata={"static": True})
    from_start: bool = dataclasses.field(default=True, metadata={"static": True})
    relative: bool = dataclasses.field(default=False, metadata={"static": True})

    def save(self, path: str | pathlib.Path) -> None:
        """Write the corrections as JSON. ValueError for numbers that are not finite."""
        numbers = {k: np.asarray(getattr(self, k), np.float64).tolist() for k in _NUMBERS}
        losses = None if self.losses is None else np.asarray(self.losses, np.float64).tolist()
        text = {"format": FORMAT} | {k: getattr(self, k) for k in _CHOICES} | numbers
        text |= {"used": np.asarray(self.used).tolist(), "losses": losses}
        write_text(path, json.dumps(text, indent=1, allow_nan=False))


_NUMBERS, _CHOICES = ("levels", "coordinates"), ("order", "from_start", "relative")


def load_corrections(path: str | pathlib.Path) -> Corrections:
    """Read what :meth:`Corrections.save` wrote.

    Raises ValueError if the file is something else, or its numbers do not fit together.
    """
    text = read_json(path)
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{path} holds no corrections (its 'format' should be {FORMAT!r})")
    try:
        numbers: dict[str, Any] = {k: real_array(text[k]) for k in _NUMBERS}
        losses = None if text["losses"] is None else real_array(text["losses"])
        made = Corrections(
            **numbers, used=np.array(text["used"]), losses=losses,
            **{k: text[k] for k in _CHOICES},
        )  # fmt: skip
        _check(made)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} holds damaged corrections: {error}") from error
    return made


def _check(c: Corrections) -> None:
    """Complain about corrections whose numbers do not fit together."""
    check_levels(c.levels)
    _check_order(c.order)
    steps = len(c.levels) - 1
    for name in _CHOICES[1:]:
        if not isinstance(getattr(c, name), bool):
            raise ValueError(f"{name} should be true or false, not {getattr(c, name)!r}")
    if np.shape(c.coordinates) != (steps, 4):
        raise ValueError(f"coordinates should be ({steps}, 4), not {np.shape(c.coordinates)}")
    if np.shape(c.used) != (steps,) or c.used.dtype != bool:
        raise ValueError(f"used should be {steps} booleans, not {c.used.dtype}{np.shape(c.used)}")
    if c.losses is not None and np.shape(c.losses) != (steps, 2):
        raise ValueError(f"losses should be ({steps}, 2), not {np.shape(c.losses)}")
    for name in ("coordinates", "losses"):
        numbers = jax.tree.leaves(getattr(c, name))
        check(f"{name} should be finite", lambda *a: np.isfinite(a).all(), *numbers)


def _check_order(order: int) -> None:
    if type(order) is not int or not 1 <= order <= 4:
        raise ValueError(f"order should be 1 (Euler) to 4 (iPNDM), not {order!r}")


def uncorrected(
    levels: Sequence[float] | np.ndarray,
    order: int = 1,
    from_start: bool = True,
    relative: bool = False,
) -> Corrections:
    """The plain solver: corrections none of which is used. ValueError for a wrong grid or order."""
    knots = np.array(check_levels(levels), np.float64)
    _check_order(order)
    steps = len(knots) - 1
    none, unused = np.zeros((steps, 4)), np.zeros(steps, bool)
    return Corrections(knots, none, unused, None, order, from_start, relative)


# What a sample has seen, and its basis: functions of one sample


class _Seen(NamedTuple):
    """A history of m rows of n numbers: an orthonormal frame (m, n) of it, with rows of zeros where
    there is no direction (yet), and the rows' coordinates (m, m) in that frame.
    """

    frame: Array
    rows: Array


def _unit(v: Array, least: Any) -> Array:
    """v/|v|, and 0 (its gradient as well) where |v| is at most ``least``."""
    square = jnp.sum(jnp.square(v))
    there = ~(square <= least**2)  # true for NaN, which is to be seen
    return jnp.where(there, v / jnp.sqrt(jnp.where(there, square, 1.0)), 0.0)


def _take_in(seen: _Seen, row: Array | int, v: Array) -> _Seen:
    """Append a row to the history, whose frame grows by what is new in it."""
    frame, inside, rest = seen.frame, jnp.zeros_like(seen.rows[0]), v
    for _ in range(2):  # once leaves rounding errors as large as a small rest
        shares = _einsum("mn,n->m", frame, rest)
        inside, rest = inside + shares, rest - _einsum("m,mn->n", shares, frame)
    least = 10 * jnp.finfo(v.dtype).eps * jnp.sqrt(jnp.sum(jnp.square(lax.stop_gradient(v))))
    new = _unit(rest, least)
    coordinates = inside.at[row].add(_einsum("n,n->", new, rest))
    return _Seen(frame.at[row].set(new), seen.rows.at[row].set(coordinates))


@jax.custom_jvp
def _principal(rows: Array) -> Array:
    """The first three right-singular vectors of a square matrix, (3, m); 0 where there is none."""
    _, sizes, axes = jnp.linalg.svd(rows)
    return jnp.where(_negligible(sizes, sizes)[:3, None], 0.0, axes[:3])


def _negligible(differences: Array, sizes: Array) -> Array:
    return jnp.abs(differences) <= 10 * jnp.finfo(sizes.dtype).eps * sizes[0]


@_principal.defjvp
def _principal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The change of v_k is sum_j v_j (g_k K_kj + g_j K_jk)/(g_k^2 - g_j^2), K_jk = u_j . dR v_k,
    over all j of another singular value g_j; of equal ones it is not defined, and left out.
    """
    left, g, axes = jnp.linalg.svd(primals[0])
    turned = _einsum("ij,ia,ka->jk", left, tangents[0], axes)
    apart = g[None, :] - g[:, None]
    equal, missing = _negligible(apart, g), _negligible(g, g)[:3, None]
    gap = jnp.where(equal, 1.0, apart * (g[None, :] + g[:, None]))
    mixed = g[None, :] * turned.T + g[:, None] * turned
    change = _einsum("jk,ja->ka", jnp.where(equal, 0.0, mixed / gap), axes)
    return jnp.where(missing, 0.0, axes[:3]), jnp.where(missing, 0.0, change[:3])


def _axes(seen: _Seen, row: Array | int, moved: Array, start: Array) -> Array:
    """The basis in coordinates of the frame, (4, m), at the time point of this row."""
    axes = [_unit(seen.rows[row], 0.0)]
    shift, origin = (_einsum("mn,n->m", seen.frame, v) for v in (moved, start))
    for v in _principal(seen.rows):
        for _ in range(2):
            v = v - sum(_einsum("m,m->", a, v) * a for a in axes)
        v = _unit(v, 100 * jnp.finfo(v.dtype).eps)
        along = _einsum("m,m->", shift, v)
        along = jnp.where(along == 0, _einsum("m,m->", origin, v), along)
        axes.append(jnp.where(along < 0, -v, v))
    return jnp.stack(axes)


def _unseen(start: Array, rows: int, from_start: bool) -> _Seen:
    """The history of one sample before its first time point, with room for ``rows``."""
    size = max(rows, 3)  # as many as there are to be singular vectors
    empty = jnp.zeros((size, start.shape[0]), start.dtype)
    seen = _Seen(empty, jnp.zeros((size, size), start.dtype))
    return _take_in(seen, 0, start) if from_start else seen


def basis(start: Array, directions: Array, y: Array, from_start: bool = True) -> Array:
    """The basis u_1, ..., u_4 of every sample, (batch, 4, *shape); 0 where there is none.

    start: (batch, *shape), x_T. directions: (k, batch, *shape), oldest first, the last one d. y:
    (batch, *shape), the state. from_start: whether x_T is a row of the history.
    """

    def one(x: Array, ds: Array, y: Array) -> Array:
        seen = _unseen(x, len(ds) + 1, from_start)
        for row, d in enumerate(ds, 1):
            seen = _take_in(seen, row, d)
        axes = _axes(seen, len(ds), y - x, x)
        return _einsum("km,mn->kn", axes, seen.frame)

    flat = [a.reshape(*a.shape[:k], -1) for a, k in ((start, 1), (directions, 2), (y, 1))]
    made = jax.vmap(one, (0, 1, 0))(*flat)
    return made.reshape(*made.shape[:2], *start.shape[1:])


# The solver with corrected directions: functions of a batch of flat samples


class _Walk(NamedTuple):
    """A batch on its way: states (batch, n), histories, and the last directions (order, batch, n),
    newest first.
    """

    y: Array
    seen: _Seen
    slopes: Array


class _Point(NamedTuple):
    """A time point: its number, the levels of its step, and the solver's weights (order,) of the
    last directions.
    """

    i: Any
    s: Any
    r: Any
    weights: Any


def _points(levels: Array | np.ndarray, order: int, dtype: Any) -> _Point:
    """All time points, stacked."""
    steps = len(levels) - 1
    rows = [ADAMS_BASHFORTH[min(i + 1, order) - 1] for i in range(steps)]
    weights = np.array([[*row, *[0.0] * (order - len(row))] for row in rows])
    s = jnp.asarray(levels, dtype)
    return _Point(jnp.arange(steps, dtype=jnp.int32), s[:-1], s[1:], jnp.asarray(weights, dtype))


def _begin(start: Array, steps: int, order: int, from_start: bool) -> _Walk:
    x = start.reshape(start.shape[0], -1)
    seen = jax.vmap(lambda x: _unseen(x, steps + 1, from_start))(x)
    return _Walk(x, seen, jnp.zeros((order, *x.shape), x.dtype))


def _look(
    D: Denoiser, walk: _Walk, start: Array, point: _Point, cond: Cond, relative: bool
) -> tuple[_Walk, Array, Array]:
    """Evaluate: the walk with d in its history, d (batch, n) and the axes (batch, 4, m), in units
    of |d| if ``relative``.
    """
    y, x = walk.y, start.reshape(walk.y.shape)
    output = D(y.reshape(start.shape), point.s, cond).astype(y.dtype)
    d = (y - output.reshape(y.shape)) / point.s
    seen = jax.vmap(_take_in, (0, None, 0))(walk.seen, point.i + 1, d)
    axes = jax.vmap(_axes, (0, None, 0, 0))(seen, point.i + 1, y - x, x)
    axes = axes * norm(d)[:, None, None] if relative else axes
    return walk._replace(seen=seen), d, axes


def _move(
    walk: _Walk, point: _Point, d: Array, axes: Array, coordinates: Array, used: Array
) -> _Walk:
    """Take the step, along the corrected direction if it is used."""
    place = _einsum("k,bkm->bm", coordinates, axes)
    seen, corrected = walk.seen, _einsum("bm,bmn->bn", place, walk.seen.frame)
    rows = seen.rows.at[:, point.i + 1].set(jnp.where(used, place, seen.rows[:, point.i + 1]))
    slopes = jnp.concatenate([jnp.where(used, corrected, d)[None], walk.slopes[:-1]])
    y = walk.y + (point.r - point.s) * _einsum("j,jbn->bn", point.weights, slopes)
    return _Walk(y, seen._replace(rows=rows), slopes)


@functools.partial(jax.jit, static_argnames="unroll")
def _states(D: Denoiser, c: Corrections, start: Array, cond: Cond, unroll: int | bool) -> Array:
    """The states after every step, (steps, batch, *shape)."""
    points = _points(c.levels, c.order, start.dtype)
    coordinates, used = jnp.asarray(c.coordinates, start.dtype), jnp.asarray(c.used)

    def step(walk: _Walk, inputs: tuple[_Point, Array, Array]) -> tuple[_Walk, Array]:
        point, own, kept = inputs
        walk, d, axes = _look(D, walk, start, point, cond, c.relative)
        walk = _move(walk, point, d, axes, own, kept)
        return walk, walk.y

    walk = _begin(start, len(c.levels) - 1, c.order, c.from_start)
    _, states = lax.scan(step, walk, (points, coordinates, used), unroll=unroll)
    return states.reshape(-1, *start.shape)


def pas(
    denoiser: Denoiser,
    corrections: Corrections,
    start: Array,
    cond: Cond = None,
    *,
    unroll: int | bool = 1,
) -> Array:
    """Sample with corrected directions; one evaluation per step.

    Args:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``.
        corrections: from :func:`pas_search`, :func:`load_corrections` or :func:`uncorrected`.
            Samples are differentiable with respect to their coordinates.
        start: (batch, *shape) states at ``corrections.levels[0]``, float32 or float64. No sample
            depends on another.
        cond: handed to the denoiser.
        unroll: as for :func:`jaxdiff.sampling.sample.sample`.

    Returns:
        The last state, of the shape of ``start``.

    Raises:
        ValueError, TypeError: if the arguments do not fit together, before anything is compiled.
    """
    _check(corrections)
    check_start(start, None)
    return _states(as_partial(denoiser), corrections, start, cond, unroll)[-1]


# The search


class Errors(NamedTuple):
    """Mean absolute distance to the teacher after every step, (steps,), of the plain solver and of
    the corrected one.
    """

    plain: Array
    corrected: Array


def pas_errors(
    denoiser: Denoiser,
    corrections: Corrections,
    start: Array,
    targets: Array | Path,
    cond: Cond = None,
) -> Errors:
    """What corrections are worth on samples they were not made from. Arguments and errors as for
    :func:`pas` and :func:`pas_search`.
    """
    _check(corrections)
    check_start(start, None)
    D, wanted = as_partial(denoiser), _targets(targets, corrections.levels, start)
    unused = np.zeros(len(corrections.levels) - 1, bool)
    both = [dataclasses.replace(corrections, used=unused), corrections]
    distances = jax.vmap(lambda a, b: jnp.mean(absolute(a, b)))
    return Errors(*(distances(_states(D, c, start, cond, 1), wanted) for c in both))


def _targets(targets: Array | Path, levels: Array | np.ndarray, start: Array) -> Array:
    """The teacher's states after every step, (steps, batch, *shape)."""
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
    learning_rate: float = 0.01,
    updates: int = 1000,
    patience: int = 10,
    tolerance: float = 1e-4,
) -> Corrections:
    """Find corrections that bring the samples nearer to a teacher's.

    Time points are dealt with in order. At each the network is evaluated once, and Adam moves C
    from (mean |d|, 0, 0, 0) to lower the mean absolute distance of the next state to the teacher's.
    Corrections are greedy: with iPNDM, whose later steps extrapolate the corrected directions, the
    last state need not gain. :func:`pas_errors` tells, on samples kept apart.

    Args:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``.
        levels: strictly decreasing noise levels; only the last may be 0.
        start: (batch, *shape) states at ``levels[0]``. Memory is (steps + 1) times theirs.
        targets: (steps + 1, batch, *shape), the teacher's states at ``levels`` from the same start,
            or a :class:`jaxdiff.tuning.path.Path`.
        cond: handed to the denoiser.
        order: of the solver, 1 (Euler) to 4 (iPNDM).
        from_start: whether x_T is a row of the history.
        relative: coordinates in units of each sample's own |d|, beginning with (1, 0, 0, 0), the
            plain step. In the paper's absolute units u_1 has the same length for all samples, which
            is right only where all |d| are nearly alike: images of many pixels.
        learning_rate: of Adam, in units of C.
        updates: at most, for each time point.
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
    points, limits = _points(plain.levels, order, start.dtype), (learning_rate, updates, patience)
    walk, found = _begin(start, len(wanted), order, from_start), []
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


_look_once, _move_once = jax.jit(_look, static_argnames="relative"), jax.jit(_move)


@jax.jit
def _fit(
    walk: _Walk,
    point: _Point,
    d: Array,
    axes: Array,
    target: Array,
    first: Array,
    limits: tuple[Any, ...],
) -> tuple[Array, Array, Array]:
    """The best coordinates of a time point, and the loss without and with them."""
    learning_rate, updates, patience = limits
    frame = _einsum("bkm,bmn->bkn", axes, walk.seen.frame)
    past = _einsum("j,jbn->bn", point.weights[1:], walk.slopes[:-1])

    def distance(direction: Array) -> Array:
        y = walk.y + (point.r - point.s) * (point.weights[0] * direction + past)
        return jnp.mean(absolute(y, target))

    def loss(coordinates: Array) -> Array:
        return distance(_einsum("k,bkn->bn", coordinates, frame))

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
    """Where an optimisation stands: the latest coordinates, how many updates, the best so far, and
    when they were found.
    """

    now: Array
    state: Any
    count: Array
    best: Array
    least: Array
    when: Array
