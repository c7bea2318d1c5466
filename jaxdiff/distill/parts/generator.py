"""Generators: samples a student makes in one or a few evaluations, and gradients that push them.

One evaluation: x = g(z) = D(S z, S), with S the level that sampling starts from. Several, at levels
S = s_0 > s_1 > ...: x_k = D(y_k, s_k), y_{k+1} = x_k + s_{k+1} z_k, as multistep consistency models
are sampled. Backward simulation (Yin et al. 2405.14867, section 4.5) trains such a student on the
inputs it meets in sampling: y_k is made by the student itself, without gradient, and only the k-th
evaluation is differentiated.

A score difference says where samples should move, not how good they are: the pseudo-loss
|x - sg(x - d)|^2/2 has d as its gradient (2311.18828, section 4; 2305.16213, eq. 9).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.distance import squared
from jaxdiff.distill.parts.levels import grid_index, karras_between, log_normal_levels
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.grids.ends import check_range
from jaxdiff.process import Process, level
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key

Map = Callable[..., Array]
Levels = Callable[[Key, Array], Array]  # of a key and a batch: one level per sample
Weight = Callable[[Array], Array]  # of levels


def generate(D: Map, levels: Sequence[float], like: Array, key: Key) -> tuple[Array, Array]:
    """Samples (batch, *shape) of one evaluation of sampling at ``levels``, drawn per sample, its
    input made by the student without gradient; and the level (batch,) of that evaluation. With one
    level, samples in one evaluation.
    """
    key_step, *keys = jax.random.split(key, len(levels) + 1)
    y = levels[0] * jax.random.normal(keys[0], like.shape, like.dtype)
    which = grid_index(key_step, like, len(levels))
    chosen, at = y, jnp.full(like.shape[:1], levels[0], like.dtype)
    for k in range(1, len(levels)):
        s = jnp.full(like.shape[:1], levels[k - 1], like.dtype)
        x = jax.lax.stop_gradient(D(y, s))
        y = x + levels[k] * jax.random.normal(keys[k], like.shape, like.dtype)
        here = which == k
        chosen = jnp.where(expand(here, y) > 0, y, chosen)
        at = jnp.where(here, levels[k], at)
    return D(chosen, at), at


def denoise(D: Map, levels: Sequence[float], x0: Array, key: Key) -> tuple[Array, Array, Array]:
    """Samples (batch, *shape) of one evaluation at one of the ``levels``, per sample, of data with
    noise of that level: what :func:`generate` does, its inputs made of data. Returns these inputs
    and their levels too: (x, y, s).
    """
    key_step, key_noise = jax.random.split(key)
    which = grid_index(key_step, x0, len(levels)).astype(jnp.int32)
    s = jnp.asarray(list(levels), x0.dtype)[which]
    y = perturb(x0, s, jax.random.normal(key_noise, x0.shape, x0.dtype))
    return D(y, s), y, s


def generator_tables(levels: Sequence[float]) -> Callable[[int], Table]:
    """``tables(num_steps)``: the sampler whose inputs :func:`generate` simulates, at the first
    ``steps`` of the levels.

    Raises ValueError for levels that do not decrease to above 0; the tables, for more steps.
    """
    levels = [float(s) for s in levels]
    if not levels or min(levels) <= 0 or sorted(set(levels), reverse=True) != levels:
        raise ValueError(f"a generator's levels are positive and decrease; got {levels}")

    def tables(num_steps: int) -> Table:
        if not 1 <= num_steps <= len(levels):
            raise ValueError(
                f"this student was trained for up to {len(levels)} evaluations, not {num_steps}"
            )
        return table(solvers.consistency, [*levels[:num_steps], 0.0])

    return tables


def push(x: Array, direction: Array) -> Array:
    """Return a pseudo-loss per sample, (batch,), whose mean over the batch has the gradient
    direction/(numbers in x) in x.
    """
    return 0.5 * squared(x, jax.lax.stop_gradient(x - direction))


def normaliser(x: Array, denoised: Array, least: float = 1e-6) -> Array:
    """1/(mean |x - D| + least) per sample, (batch,): by the size of what the teacher would change
    (2311.18828, eq. 8; 2404.04057, section 4). No gradient.
    """
    difference = jax.lax.stop_gradient(x - denoised)
    return 1.0 / (jnp.mean(jnp.abs(difference).reshape(len(x), -1), axis=1) + least)


def renoise(key: Key, x: Array, levels: Levels) -> tuple[Array, Array]:
    """Samples with noise, each at a level of its own: (y, s)."""
    key_level, key_noise = jax.random.split(key)
    s = levels(key_level, x)
    return perturb(x, s, jax.random.normal(key_noise, x.shape, x.dtype)), s


def log_normal(mean: float = -1.2, std: float = 1.2) -> Levels:
    """Return levels of normal logarithm."""
    return lambda key, like: log_normal_levels(key, like, mean, std)


def _check_fractions(first: float, last: float) -> None:
    if not 0 <= first < last <= 1:
        raise ValueError(f"fractions need 0 <= first < last <= 1; got {first} and {last}")


def log_uniform(low: float, high: float) -> Levels:
    """Return levels of uniform logarithm. ValueError unless 0 < low < high."""
    check_range(low, high)

    def draw(key: Key, like: Array) -> Array:
        ends = math.log(low), math.log(high)
        return jnp.exp(jax.random.uniform(key, like.shape[:1], like.dtype, *ends))

    return draw


def karras(low: float, high: float, first: float = 0.0, last: float = 1.0) -> Levels:
    """Return levels uniform on a Karras grid, between its fractions ``first`` and ``last``; 0 is
    ``high``. ValueError unless 0 < low < high and 0 <= first < last <= 1.
    """
    check_range(low, high)
    _check_fractions(first, last)
    return lambda key, like: karras_between(key, like, low, high, first, last)


def in_time(process: Process, first: float = 0.02, last: float = 0.98) -> Levels:
    """Return levels uniform in a process's time, between fractions of its whole (0 is data).
    ValueError unless 0 <= first < last <= 1.
    """
    _check_fractions(first, last)

    def draw(key: Key, like: Array) -> Array:
        t = jax.random.uniform(key, like.shape[:1], like.dtype, minval=first, maxval=last)
        return jnp.asarray(level(process, t * process.t_max), like.dtype)

    return draw
