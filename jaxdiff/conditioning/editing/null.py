r"""Null-text inversion (Mokady et al. 2022, arXiv 2211.09794).

Guided sampling from an inverted latent does not return to the picture. The unconditional condition
is therefore fitted at each step, so that the guided step from there goes where the inversion
without guidance came from,

    min over null_i of |y*_(i+1) - step(y_i; w, c, null_i)|^2,

step by step from the top, each begun with the one before. Negative-prompt inversion (Miyake et al.
2305.16807) puts the source's own condition there instead, without any fit:
``negative_prompt(D, w)`` with ``Prompts(edit, source)``, whose output is D(source) where both are
the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxdiff.arrays import check, null_condition
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.inversion import inverse_table
from jaxdiff.sampling.sample import trajectory
from jaxdiff.solvers.euler import euler
from jaxdiff.solvers.scalar import check_levels, is_zero
from jaxdiff.solvers.steps import euler_step
from jaxdiff.typing import Array, Cond, Denoiser


def null_text(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond: Cond,
    null: Cond,
    weight: Weight = 7.5,
    *,
    num_updates: int = 10,
    learning_rate: float = 1e-2,
) -> tuple[Array, Cond]:
    """Fit the null condition of every step (arXiv 2211.09794, algorithm 1).

    Deviation: every step makes all its updates; the paper stops early.

    Args:
        denoiser: conditional ``D(y, level, cond)``, differentiable in the condition.
        levels: the grid of the Euler (DDIM) solver; data are states at its lowest positive level.
        data: (batch, *shape).
        cond: of the data, floating (an embedding); null: what stands for none, one sample's value.
        weight: of guidance.
        num_updates: of Adam, in each step. learning_rate: in the first step; it falls by a
            hundredth of it with every step, as in the paper.

    Returns:
        The state at ``levels[0]``, and the nulls, with axes (steps, batch) before a sample's own:
        for :func:`null_text_guidance`.

    Raises:
        TypeError: for a condition that is not floating. ValueError: for no updates, a rate that is
            not positive, or levels or a null that do not fit.
    """
    w = as_weight(weight)

    def guided(D: Partial, nothing: Cond, y: Array, s: Array) -> Array:
        return _with_null(D, w, nothing, y, s, cond)

    rates = Rates(num_updates, learning_rate, 0.01)
    return fitted_conditions("null_text", denoiser, levels, data, cond, null, guided, rates)


class Rates(NamedTuple):
    """Updates of Adam in each step, their rate in the first, and what it loses with every step."""

    num_updates: int
    rate: float
    fall: float


def fitted_conditions(
    name: str,
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    data: Array,
    cond: Cond,
    null: Cond,
    guided: Callable[[Partial, Cond, Array, Array], Array],
    rates: Rates,
) -> tuple[Array, Cond]:
    """Return the state that data come from under ``cond``, and the conditions (steps, batch, ...)
    that lead back: begun with ``null``, of ``guided(D, condition, y, level)``.
    """
    import optax  # here: slow to import

    knots = check_levels(levels)
    if rates.num_updates < 1:
        raise ValueError(f"{name} needs at least one update, not {rates.num_updates}")
    check("learning_rate must be positive", lambda a: a > 0, rates.rate)
    if any(not jnp.issubdtype(jnp.result_type(c), jnp.floating) for c in jax.tree.leaves(cond)):
        raise TypeError(f"{name} fits conditions that are floating numbers, such as embeddings")
    first: Any = null_condition(cond, null)
    upper = knots[:-1] if is_zero(knots[-1]) else knots
    D = as_partial(denoiser)
    up = trajectory(D, inverse_table(euler, upper), data, cond).states[::-1]
    goals = jnp.concatenate([up[1:], data[None]]) if is_zero(knots[-1]) else up[1:]
    count = len(knots) - 1
    each = rates.rate * np.maximum(1 - rates.fall * np.arange(count), 0.0)
    adam = optax.scale_by_adam()

    def step(y: Array, s: Array, r: Array, free: Cond) -> Array:
        return euler_step(lambda y, s: guided(D, free, y, s), y, s, r)

    def fitted(carry: tuple[Array, Cond], given: tuple[Array, ...]) -> tuple[Any, Cond]:
        y, free = carry
        goal, s, r, rate = given

        def loss(free: Cond) -> Array:
            apart = step(y, s, r, free) - goal
            return jnp.sum(jnp.mean(apart.reshape(len(y), -1) ** 2, axis=1))

        def update(_: int, both: tuple[Cond, Any]) -> tuple[Cond, Any]:
            free, memory = both
            slope = jax.grad(loss)(free)
            with jax.numpy_dtype_promotion("standard"):  # optax has decay ** count
                move, memory = adam.update(slope, memory)
            return jax.tree.map(lambda n, m: n - rate.astype(n.dtype) * m, free, move), memory

        free, _ = lax.fori_loop(0, rates.num_updates, update, (free, adam.init(free)))
        return (step(y, s, r, free), free), free

    numbers = [jnp.asarray(v, data.dtype) for v in (knots[:-1], knots[1:], each)]
    run = jax.jit(lambda y, n, given: lax.scan(fitted, (y, n), given)[1])
    return up[0], run(up[0], first, (goals, *numbers))


def null_text_guidance(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray | Array,
    nulls: Cond,
    weight: Weight = 7.5,
) -> Partial:
    """Return classifier-free guidance whose null condition is that of the nearest level.

    Args:
        denoiser, weight: as for :func:`null_text`.
        levels: the grid. nulls: (steps, batch, ...), of :func:`null_text`.

    Raises ValueError for other than one null a step.
    """
    knots = knots_of(levels, nulls, "nulls")
    return Partial(_nearest_null, as_partial(denoiser), knots, nulls, as_weight(weight))


def knots_of(levels: Sequence[float] | np.ndarray | Array, conditions: Cond, name: str) -> Array:
    """Return the levels that steps start from. ValueError for other than one condition a step."""
    knots = jnp.stack([jnp.asarray(s) for s in check_levels(levels)[:-1]])
    if any(n.shape[0] != len(knots) for n in jax.tree.leaves(conditions)):
        raise ValueError(f"{name} need a first axis of {len(knots)}, one for each step of the grid")
    return knots


def nearest(knots: Array, conditions: Cond, y: Array, level: Array, name: str) -> Cond:
    """Return the condition of the nearest level. ValueError for a level for each sample."""
    if jnp.ndim(level):
        raise ValueError(f"{name} needs one level for all samples: a fixed grid")
    at = jnp.argmin(jnp.abs(knots.astype(y.dtype) - jnp.asarray(level, y.dtype)))
    return jax.tree.map(lambda n: n[at], conditions)


def _nearest_null(
    denoiser: Partial, knots: Array, nulls: Cond, weight: Any, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    nothing = nearest(knots, nulls, y, level, "null_text_guidance")
    return _with_null(denoiser, weight, nothing, y, level, cond, **options)


def _with_null(
    denoiser: Partial, weight: Any, nothing: Cond, y: Array, level: Array, cond: Cond,
    **options: Any,
) -> Array:  # fmt: skip
    towards = denoiser(y, level, cond, **options)
    plain = denoiser(y, level, nothing, **options)
    return plain + weight_at(weight, level, y) * (towards - plain)
