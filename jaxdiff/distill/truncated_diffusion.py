"""Truncated diffusion: a chain that starts half way, where an adversarial generator takes it.

The chain is cut at a noise level T: below, the student is a denoiser trained by score matching;
from the top, one jump takes noise to level T at once, and a critic sees that what arrives there is
distributed as noisy data are (Zheng et al. 2202.09671, section 3):

    E_(s <= T) w(s) |D(y, s) - x0|^2  +  a softplus(-l(G(S z))),
    G(y) = (T/S) y + (1 - T/S) D(y, S).

The jump is an Euler step of the same network, so that generator and denoiser share it, as in the
paper, and the whole is sampled as any denoiser is, on a grid whose first step is S -> T.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import grids, solvers
from jaxdiff.distill.adversarial import gradient_penalty
from jaxdiff.distill.levels import log_normal_levels
from jaxdiff.distill.primitives import jump, perturb
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import Opponent, Play, two_players
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key, Solver


def truncated_diffusion(
    student: Student,
    opponent: Opponent,
    *,
    cut: float = 2.5,
    adversarial: float = 1.0,
    mean: float = -1.2,
    std: float = 1.2,
    penalty: float = 0.01,
    solver: Solver = solvers.euler,
    options: dict[str, Any] | None = None,
    every: int = 1,
) -> Method:
    """Truncated diffusion probabilistic models, TDPM (Zheng et al., arXiv 2202.09671).

    Args:
        student: denoiser and generator in one; may start as a diffusion model. Adam at 2e-4 by
            default.
        opponent: with a head on its own network's features; Adam at 1e-3 by default.
        cut: the level T.
        adversarial: a. mean, std: of the logarithm of the denoiser's levels, those above T being
            taken for T.
        penalty: factor of R1 on noisy data.
        solver, options: of the steps after the jump, on a Karras grid; more than one of them makes
            the whole better.
        every: updates of the critic for one of the student.

    ``sampler(state, steps=n)`` is the jump and n - 1 steps. Trains on data.
    Deviations: the critic's trunk is a diffusion network, the paper's a plain one; levels are those
    of this frame (the paper's 499th step of a thousand is near 2.5).
    Fails: what the jump gets wrong at T nothing mends but the noise that is left there; the lower T
    the more it is a plain GAN.
    Cost: score matching, a generator call and the critic's.

    Raises ValueError for a level outside the student's, or an opponent without a head on its own
    features.
    """
    if not student.low < cut < student.high:
        raise ValueError(f"cut= lies between levels {student.low} and {student.high}; got {cut}")
    if opponent.head is None or opponent.trunk != "fake":
        raise ValueError("TDPM's critic is a head on its own network: Opponent(head=...)")
    head = opponent.head

    def at(value: float, like: Array) -> Array:
        return jnp.full(like.shape[:1], value, like.dtype)

    def make(now: Play, key: Key) -> Array:
        S, T = at(student.high, now.x0), at(cut, now.x0)
        y = student.high * jax.random.normal(key, now.x0.shape, now.x0.dtype)
        return jump(y, S, T, now.student(y, S))

    def each(now: Play) -> Any:
        key_level, key_noise = jax.random.split(now.key)
        s = jnp.minimum(log_normal_levels(key_level, now.x0, mean, std), cut)
        eps = jax.random.normal(key_noise, now.x0.shape, now.x0.dtype)
        weight = edm_weight(s, student.sigma_data)
        matched = score_matching_loss(now.student, now.x0, s, eps, weight)
        told = head.game.student(now.logits(now.x, at(cut, now.x)))
        return matched + adversarial * told, {"matching": jnp.mean(matched), "game": told}

    def other(now: Play) -> Array:
        eps = jax.random.normal(now.key, now.x0.shape, now.x0.dtype)
        T = at(cut, now.x0)
        real = perturb(now.x0, T, eps)
        value = head.game.critic(now.logits(real, T), now.logits(now.x, T))
        return value + penalty * gradient_penalty(lambda y: now.logits(y, T), real)

    def tables(steps: int, levels: list[float] | None = None) -> Table:
        if steps < 2 and levels is None:
            raise ValueError(f"the jump needs at least one step after it: steps >= 2, not {steps}")
        rest = grids.karras(steps - 1, student.low, cut).tolist() if levels is None else levels
        return table(solver, [student.high, *rest], **(options or {}))

    return two_players(
        student, opponent, make, each, other, tables, teacher=None,
        optimisers=(optax.adam(2e-4), optax.adam(1e-3)), every=every,
    )  # fmt: skip
