"""Times of flow maps: pairs t > r of the flow's time, labels of networks, and jumps between levels.

The flow's time is t = s/(1 + s) of level s. Source: Geng et al., arXiv 2505.13447.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.levels import logit_normal_times
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import flow_levels, jump_table
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Key

Pairs: TypeAlias = Callable[[Key, Array], tuple[Array, Array]]
"""Times t >= r, (batch,) each, for a batch of data."""


def saturating(level: Array) -> Array:
    """Return a label for students whose derivative is taken: log(s/(1 + s/5))/4, with s + 0.001
    above.

    It is EDM's log(s)/4 where a denoiser changes with the level, so that a student starts as its
    teacher, and levels off above 5. What it adds to the target, (t - r) d label/dt, is at most
    1.25; with log(s)/4 it is 1/(4 (1 - t)), 20 at level 80. The derivative in r, which Lagrangian
    forms take, is up to 1/(4 r) in both.
    """
    return jnp.log((level + 1e-3) / (1.0 + level / 5.0)) / 4.0


def logit_normal_pairs(
    later: tuple[float, float] = (-2.0, 2.0),
    earlier: tuple[float, float] = (-2.0, 2.0),
    *,
    unequal: float = 0.75,
    swap: bool = True,
) -> Pairs:
    """Logit-normal t and r of given means and deviations; r = t but for the share ``unequal``.

    Pairs in the wrong order are exchanged, or r is set to t without ``swap``. The published
    CIFAR-10 runs: the defaults, then later=(-0.6, 1.6), earlier=(-4, 1.6), swap=False.
    """

    def pairs(key: Key, x0: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, 3)
        t, r = (logit_normal_times(k, x0, *m) for k, m in zip(keys, (later, earlier), strict=False))
        t, r = (jnp.maximum(t, r) if swap else t), jnp.minimum(t, r)
        return t, jnp.where(jax.random.bernoulli(keys[2], unequal, t.shape), r, t)

    return pairs


def within(student: Student, t: Array, r: Array) -> tuple[Array, Array]:
    """Return the pair, both between the times of the student's lowest and highest level."""
    first, last = student.low / (1.0 + student.low), student.high / (1.0 + student.high)
    return jnp.clip(t, first, last), jnp.clip(r, first, last)


def flow_map_tables(student: Student) -> Callable[..., Table]:
    """``tables(num_steps, levels=None, gamma=0.0)``: jumps from the student's highest level to its
    lowest, in equal steps of flow time; with ``gamma`` noise is added after each but the last
    (:func:`jaxdiff.solvers.gamma_sampling`).
    """

    def tables(num_steps: int, levels: list[float] | None = None, gamma: float = 0.0) -> Table:
        known = flow_levels(student, num_steps, student.low) if levels is None else levels
        return jump_table(known, gamma)

    return tables


def noisy(student: Student, pairs: Pairs, step: Step) -> tuple[Array, Array, Array, Array, Key]:
    """Return a batch at random times: x_t, t, r, eps - x0, and a key for further draws."""
    key_times, key_noise, key = jax.random.split(step.key, 3)
    t, r = within(student, *pairs(key_times, step.x0))
    eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
    return expand(1.0 - t, eps) * step.x0 + expand(t, eps) * eps, t, r, eps - step.x0, key


CIFAR_PAIRS = logit_normal_pairs()


# of improved mean flow; the first paper's ImageNet runs have a quarter with t and r unequal
IMAGENET_PAIRS = logit_normal_pairs((-0.4, 1.0), (-0.4, 1.0), unequal=0.5)
