"""Outcome of a solve by diffrax: states, counts, saved states, the whole path; and which of these
to save.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.sampling.checks import as_states
from jaxdiff.sampling.finished import finite_rows
from jaxdiff.typing import Array, Cond, Denoiser

if TYPE_CHECKING:
    pass


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["interpolation", "begin", "end"],
    meta_fields=["per_sample"],
)
@dataclasses.dataclass(frozen=True)
class Path:
    """The solution of an adaptive solve at every level: ``path(levels)``. A pytree.

    interpolation: diffrax's, one per sample where ``per_sample``; begin, end: -log of its levels.
    """

    __repr__ = short

    interpolation: Any
    begin: Array
    end: Array
    per_sample: bool

    def __call__(self, levels: float | Sequence[float] | np.ndarray | Array) -> Array:
        """States (batch, *shape) at a level, or (n, batch, *shape) at levels (n,), in any order.

        Raises:
            ValueError: levels outside of those that were integrated over.
        """
        given = jnp.asarray(levels, self.begin.dtype)
        # a level given as a Python number rounds on its way to the ends' dtype and logarithm
        within = lambda s, b, e: ((-np.log(s) > b - 1e-5) & (-np.log(s) < e + 1e-5)).all()  # noqa: E731
        check("the path has levels from low to high only", within, given, self.begin, self.end)
        times = jnp.clip(-jnp.log(given), self.begin, self.end)
        return self._at(times) if times.ndim == 0 else jax.vmap(self._at)(times)

    def _at(self, time: Array) -> Array:
        if not self.per_sample:
            return self.interpolation.evaluate(time)
        return jax.vmap(lambda one: one.evaluate(time)[0])(self.interpolation)


class Adaptive(NamedTuple):
    """Outcome of an adaptive solve.

    states: (batch, *shape) at the lowest level, or denoised there.
    nfe: (batch,) int32 network evaluations spent on each sample, rejected steps included; None for
        implicit solvers, whose evaluations do not follow from their steps. Under ``per_sample``
        the batch costs its largest.
    num_steps: (batch,) int32 attempted steps.
    finished: (batch,) whether the lowest level was reached, in numbers that are finite.
    saved: (n, batch, *shape) states at the requested ``levels``, if any.
    path: the whole solution, with ``dense``.
    """

    __repr__ = short

    states: Array
    nfe: Array | None
    num_steps: Array
    finished: Array
    saved: Array | None = None
    path: Path | None = None


def check_range(high: float | Array, low: float | Array) -> None:
    """Raise ValueError unless high > low > 0, both finite; traced levels are trusted."""
    positive = lambda *levels: all(0 < float(level) < math.inf for level in levels)  # noqa: E731
    check("levels must be positive and finite", positive, high, low)
    below = lambda a, b: float(a) < float(b)  # noqa: E731
    check("sampling goes down in level: need low < high", below, low, high)


def save_at(
    levels: ArrayLike | Sequence[float] | None, dense: bool, begin: Array, end: Array
) -> Any:
    """Return what diffrax is to save: the end, the states at the levels, the interpolation.

    Raises ValueError unless the levels decrease and lie between the two ends.
    """
    import diffrax

    subs = {"end": diffrax.SubSaveAt(t1=True)}
    if levels is not None:
        subs["saved"] = diffrax.SubSaveAt(ts=times_of(levels, begin, end))
    return diffrax.SaveAt(subs=subs, dense=dense)


def times_of(levels: ArrayLike | Sequence[float], begin: Array, end: Array) -> Array:
    """Return the times of the requested levels. Errors as of :func:`save_at`."""
    given = jnp.asarray(levels, begin.dtype)
    check("levels must be a list of decreasing numbers", _decreasing, given)
    within = lambda s, b, e: ((s < np.exp(-b) * 1.00001) & (s > np.exp(-e) / 1.00001)).all()  # noqa: E731
    check("levels to save must lie between low and high", within, given, begin, end)
    return jnp.clip(-jnp.log(given), begin, end)


def _decreasing(levels: np.ndarray) -> bool:
    return levels.ndim == 1 and bool((np.diff(levels) < 0).all())


def outcome(
    solution: Any,
    counts: tuple[int, int] | None,
    batch: int,
    begin: Array,
    end: Array,
    per_sample: bool,
) -> Adaptive:
    """Return the outcome of a diffrax solve, of the whole batch or of (1, *shape) per sample."""
    import diffrax

    num_steps = jnp.broadcast_to(jnp.asarray(solution.stats["num_steps"], jnp.int32), (batch,))
    nfe = None if counts is None else counts[0] + counts[1] * num_steps
    # saved states come as (batch, n, 1, *shape), or (n, batch, *shape)
    first = lambda ys: jnp.moveaxis(ys[:, :, 0], 1, 0) if per_sample else ys  # noqa: E731
    saved = first(solution.ys["saved"]) if "saved" in solution.ys else None
    kept = solution.interpolation
    path = None if kept is None else Path(kept, begin, end, per_sample)
    states = first(solution.ys["end"])[0]
    finished = diffrax.is_successful(solution.result) & finite_rows(states)
    return Adaptive(states, nfe, num_steps, finished, saved, path)


def denoised(out: Adaptive, denoiser: Denoiser, low: float | Array, cond: Cond) -> Adaptive:
    """Return the outcome with its states denoised at the lowest level: one more evaluation."""
    answer = denoiser(out.states, jnp.asarray(low, out.states.dtype), cond)
    states, nfe = as_states(answer, out.states), None if out.nfe is None else out.nfe + 1
    return out._replace(states=states, nfe=nfe, finished=out.finished & finite_rows(states))
