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

from collections.abc import Sequence
from typing import Any

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
    import optax  # here: slow to import

    knots = check_levels(levels)
    if num_updates < 1:
        raise ValueError(f"null_text needs at least one update, not {num_updates}")
    check("learning_rate must be positive", lambda a: a > 0, learning_rate)
    if any(not jnp.issubdtype(jnp.result_type(c), jnp.floating) for c in jax.tree.leaves(cond)):
        raise TypeError("null_text fits conditions that are floating numbers, such as embeddings")
    first: Any = null_condition(cond, null)
    upper = knots[:-1] if is_zero(knots[-1]) else knots
    D, w = as_partial(denoiser), as_weight(weight)
    up = trajectory(D, inverse_table(euler, upper), data, cond).states[::-1]
    goals = jnp.concatenate([up[1:], data[None]]) if is_zero(knots[-1]) else up[1:]
    count = len(knots) - 1
    rates = learning_rate * np.maximum(1 - 0.01 * np.arange(count), 0.0)
    adam = optax.scale_by_adam()

    def step(y: Array, s: Array, r: Array, nothing: Cond) -> Array:
        return euler_step(lambda y, s: _with_null(D, w, nothing, y, s, cond), y, s, r)

    def fitted(carry: tuple[Array, Cond], given: tuple[Array, ...]) -> tuple[Any, Cond]:
        y, nothing = carry
        goal, s, r, rate = given

        def loss(nothing: Cond) -> Array:
            apart = step(y, s, r, nothing) - goal
            return jnp.sum(jnp.mean(apart.reshape(len(y), -1) ** 2, axis=1))

        def update(_: int, both: tuple[Cond, Any]) -> tuple[Cond, Any]:
            nothing, memory = both
            slope = jax.grad(loss)(nothing)
            with jax.numpy_dtype_promotion("standard"):  # optax has decay ** count
                move, memory = adam.update(slope, memory)
            return jax.tree.map(lambda n, m: n - rate.astype(n.dtype) * m, nothing, move), memory

        nothing, _ = lax.fori_loop(0, num_updates, update, (nothing, adam.init(nothing)))
        return (step(y, s, r, nothing), nothing), nothing

    numbers = [jnp.asarray(v, data.dtype) for v in (knots[:-1], knots[1:], rates)]
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
    knots = jnp.stack([jnp.asarray(s) for s in check_levels(levels)[:-1]])
    if any(n.shape[0] != len(knots) for n in jax.tree.leaves(nulls)):
        raise ValueError(f"nulls need a first axis of {len(knots)}, one for each step of the grid")
    return Partial(_nearest_null, as_partial(denoiser), knots, nulls, as_weight(weight))


def _nearest_null(
    denoiser: Partial, knots: Array, nulls: Cond, weight: Any, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    if jnp.ndim(level):
        raise ValueError("null_text_guidance needs one level for all samples: a fixed grid")
    at = jnp.argmin(jnp.abs(knots.astype(y.dtype) - jnp.asarray(level, y.dtype)))
    nothing = jax.tree.map(lambda n: n[at], nulls)
    return _with_null(denoiser, weight, nothing, y, level, cond, **options)


def _with_null(
    denoiser: Partial, weight: Any, nothing: Cond, y: Array, level: Array, cond: Cond,
    **options: Any,
) -> Array:  # fmt: skip
    plain = denoiser(y, level, nothing, **options)
    towards = denoiser(y, level, cond, **options)
    return plain + weight_at(weight, level, y) * (towards - plain)
