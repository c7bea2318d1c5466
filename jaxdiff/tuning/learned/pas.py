r"""PCA-based adaptive search (PAS, arXiv 2411.06503): a few numbers that correct a solver's steps.

The directions of a sample's trajectory lie, nearly, in a space of two or three dimensions that the
steps so far already span. At time point i with state y and start x_T let d_i be the direction of
the solver's step, y' = y + (r - s) d_i: the slope (y - D(y, s))/s for Euler (DDIM), and for iPNDM
its combination with the last slopes. Every sample makes an orthonormal basis of its own,

    u_1 = d_i / |d_i|,
    u_2, u_3, u_4:  the first three right-singular vectors of the rows x_T, d_0, ..., d_(i-1), d_i,
                    made orthogonal to u_1 (Gram-Schmidt), with <y - x_T, u_k> > 0,

and the step, and the rows of later time points, take in place of d_i the corrected direction

    sum_k C_k u_k,      C in R^4 of the time point, shared by all samples;

iPNDM combines slopes as the network gives them, which no correction touches. :func:`pas_search`
finds C from teacher states, one time point after another from high noise to low; a time point keeps
its correction only where that brings the samples nearer to the teacher.

The basis and its numerics are in :mod:`jaxdiff.tuning.learned.pas_basis`, the search and where it
departs from the published code in :mod:`jaxdiff.tuning.learned.pas_search`.
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
from jax import lax

from jaxdiff.arrays import check, einsum
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.files import read_json, real_array, write_text
from jaxdiff.sampling.checks import check_start
from jaxdiff.solvers.pndm import ADAMS_BASHFORTH
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.tuning.learned.pas_basis import Seen, axes_at, take_in, unseen
from jaxdiff.typing import Array, Cond, Denoiser

FORMAT = "jaxdiff-pas-2"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corrections:
    """A solver with its corrected directions: a pytree, to be run by :func:`pas`.

    levels: (num_steps + 1,) decreasing noise levels. coordinates: (num_steps, 4), C of every time
        point.
    used: (num_steps,) bool, which time points are corrected. losses: (num_steps, 2), mean absolute
        distance
    to the teacher before and after each correction, as :func:`pas_search` found them, or None.
    order: of the solver, 1 (Euler) to 4 (iPNDM). from_start: whether x_T is a row of the history.
    relative: whether coordinates are in units of each sample's |d| (else in absolute units, as in
    the paper).
    """

    __repr__ = short

    levels: Array | np.ndarray
    coordinates: Array | np.ndarray
    used: Array | np.ndarray
    losses: Array | np.ndarray | None = None
    order: int = dataclasses.field(default=1, metadata={"static": True})
    from_start: bool = dataclasses.field(default=True, metadata={"static": True})
    relative: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def nfe(self) -> int:
        """Number of network evaluations: one per step."""
        return len(self.levels) - 1

    def sample(self, denoiser: Denoiser, start: Array, cond: Cond = None) -> Array:
        """Return what :func:`pas` gives, unchecked: the corrections may be traced."""
        return states_of(as_partial(denoiser), self, start, cond, 1)[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the corrections as plain values."""
        numbers = {k: np.asarray(getattr(self, k), np.float64).tolist() for k in _NUMBERS}
        losses = None if self.losses is None else np.asarray(self.losses, np.float64).tolist()
        text = {"format": FORMAT} | {k: getattr(self, k) for k in _CHOICES} | numbers
        return text | {"used": np.asarray(self.used).tolist(), "losses": losses}

    def save(self, path: str | pathlib.Path) -> None:
        """Write the corrections as JSON. ValueError for numbers that are not finite."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))


_NUMBERS, _CHOICES = ("levels", "coordinates"), ("order", "from_start", "relative")


def load_corrections(path: str | pathlib.Path) -> Corrections:
    """Read what :meth:`Corrections.save` wrote.

    Args:
        path: of the file.

    Returns:
        The corrections, as they were saved.

    Raises:
        ValueError: if the file is something else, or its numbers do not fit together.
    """
    return corrections_of_dict(read_json(path), str(path))


def corrections_of_dict(text: Any, where: str = "this") -> Corrections:
    """Return the corrections that :meth:`Corrections.to_dict` described. ValueError, naming
    ``where``, if they are none or their numbers do not fit together.
    """
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{where} holds no corrections (its 'format' should be {FORMAT!r})")
    try:
        numbers: dict[str, Any] = {k: real_array(text[k]) for k in _NUMBERS}
        losses = None if text["losses"] is None else real_array(text["losses"])
        made = Corrections(
            **numbers, used=np.array(text["used"]), losses=losses,
            **{k: text[k] for k in _CHOICES},
        )  # fmt: skip
        check_corrections(made)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{where} holds damaged corrections: {error}") from error
    return made


def check_corrections(c: Corrections) -> None:
    """Raise ValueError for corrections whose numbers do not fit together."""
    check_levels(c.levels)
    _check_order(c.order)
    num_steps = len(c.levels) - 1
    for name in _CHOICES[1:]:
        if not isinstance(getattr(c, name), bool):
            raise ValueError(f"{name} should be true or false, not {getattr(c, name)!r}")
    if np.shape(c.coordinates) != (num_steps, 4):
        raise ValueError(f"coordinates should be ({num_steps}, 4), not {np.shape(c.coordinates)}")
    if np.shape(c.used) != (num_steps,) or c.used.dtype != bool:
        raise ValueError(
            f"used should be {num_steps} booleans, not {c.used.dtype}{np.shape(c.used)}"
        )
    if c.losses is not None and np.shape(c.losses) != (num_steps, 2):
        raise ValueError(f"losses should be ({num_steps}, 2), not {np.shape(c.losses)}")
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
    """Return the plain solver: corrections none of which is used. ValueError for a wrong grid or
    order.

    Args:
        levels: strictly decreasing noise levels; only the last may be 0.
        order: of the solver, 1 (Euler) to 4 (iPNDM).
        from_start: whether x_T is a row of the history.
        relative: coordinates in units of each sample's own |d|.

    Returns:
        The corrections, of which none is used.

    Raises:
        ValueError: for levels that are no grid, or another order.
    """
    knots = np.array(check_levels(levels), np.float64)
    _check_order(order)
    num_steps = len(knots) - 1
    none, unused = np.zeros((num_steps, 4)), np.zeros(num_steps, bool)
    return Corrections(knots, none, unused, None, order, from_start, relative)


# Functions of a batch of flat samples


class Walk(NamedTuple):
    """A batch on its way: states (batch, n), histories, and the last slopes (order, batch, n),
    newest first.
    """

    y: Array
    seen: Seen
    slopes: Array


class Point(NamedTuple):
    """A time point: its number, the levels of its step, and the solver's weights (order,) of the
    last slopes.
    """

    i: Any
    s: Any
    r: Any
    weights: Any


def time_points(levels: Array | np.ndarray, order: int, dtype: Any) -> Point:
    """Return all time points, stacked."""
    num_steps = len(levels) - 1
    rows = [ADAMS_BASHFORTH[min(i + 1, order) - 1] for i in range(num_steps)]
    weights = np.array([[*row, *[0.0] * (order - len(row))] for row in rows])
    s = jnp.asarray(levels, dtype)
    return Point(jnp.arange(num_steps, dtype=jnp.int32), s[:-1], s[1:], jnp.asarray(weights, dtype))


def begin(start: Array, num_steps: int, order: int, from_start: bool) -> Walk:
    """Return a batch at its start, with room for the history of so many steps."""
    x = start.reshape(start.shape[0], -1)
    seen = jax.vmap(lambda x: unseen(x, num_steps + 1, from_start))(x)
    return Walk(x, seen, jnp.zeros((order, *x.shape), x.dtype))


def look(
    D: Denoiser, walk: Walk, start: Array, point: Point, cond: Cond, relative: bool
) -> tuple[Walk, Array, Array]:
    """Evaluate: the walk with d in its history, d (batch, n), the direction of the solver's step,
    and the axes (batch, 4, m), in units of |d| if ``relative``.
    """
    y, x = walk.y, start.reshape(walk.y.shape)
    output = D(y.reshape(start.shape), point.s, cond).astype(y.dtype)
    slope = (y - output.reshape(y.shape)) / point.s
    slopes = jnp.concatenate([slope[None], walk.slopes[:-1]])
    d = einsum("j,jbn->bn", point.weights, slopes)
    seen = jax.vmap(take_in, (0, None, 0))(walk.seen, point.i + 1, d)
    axes = jax.vmap(axes_at, (0, None, 0, 0))(seen, point.i + 1, y - x, x)
    axes = axes * norm(d)[:, None, None] if relative else axes
    return walk._replace(seen=seen, slopes=slopes), d, axes


def move(walk: Walk, point: Point, d: Array, axes: Array, coordinates: Array, used: Array) -> Walk:
    """Take the step, along the corrected direction if it is used."""
    place = einsum("k,bkm->bm", coordinates, axes)
    seen, corrected = walk.seen, einsum("bm,bmn->bn", place, walk.seen.frame)
    rows = seen.rows.at[:, point.i + 1].set(jnp.where(used, place, seen.rows[:, point.i + 1]))
    y = walk.y + (point.r - point.s) * jnp.where(used, corrected, d)
    return walk._replace(y=y, seen=seen._replace(rows=rows))


@functools.partial(jax.jit, static_argnames="unroll")
def states_of(D: Denoiser, c: Corrections, start: Array, cond: Cond, unroll: int | bool) -> Array:
    """Return the states after every step, (num_steps, batch, *shape)."""
    points = time_points(c.levels, c.order, start.dtype)
    coordinates, used = jnp.asarray(c.coordinates, start.dtype), jnp.asarray(c.used)

    def step(walk: Walk, inputs: tuple[Point, Array, Array]) -> tuple[Walk, Array]:
        point, own, kept = inputs
        walk, d, axes = look(D, walk, start, point, cond, c.relative)
        walk = move(walk, point, d, axes, own, kept)
        return walk, walk.y

    walk = begin(start, len(c.levels) - 1, c.order, c.from_start)
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
    check_corrections(corrections)
    check_start(start, None)
    return states_of(as_partial(denoiser), corrections, start, cond, unroll)[-1]
