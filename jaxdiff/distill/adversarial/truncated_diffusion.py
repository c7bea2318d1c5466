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
from jaxdiff.distill.parts.critic import gradient_penalty
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.levels import log_normal_levels
from jaxdiff.distill.parts.primitives import jump, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore, two_players
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.method import Method
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Count, NotNegative, Number, Positive, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key, Solver


@in_range
def truncated_diffusion(
    student: Student,
    fake_score: FakeScore,
    *,
    cut: float = 2.5,
    adversarial: NotNegative = 1.0,
    mean: Number = -1.2,
    std: Positive = 1.2,
    penalty: NotNegative = 0.005 / 16,
    solver: Solver = solvers.euler,
    options: dict[str, Any] | None = None,
    every: Count = 1,
) -> Method:
    """Truncated diffusion probabilistic models, TDPM (Zheng et al., arXiv 2202.09671).

    Args:
        student: denoiser and generator in one; may start as a diffusion model. Adam at 2e-4 by
            default, gradients clipped at norm 1.
        fake_score: with a head on its own network's features; Adam at 2.5e-3 with betas 0 and 0.99
            by default.
        cut: the level T.
        adversarial: a.
        mean, std: of the logarithm of the denoiser's levels, those above T being taken for T.
        penalty: factor of R1 on noisy data, 0.01/2 in every sixteenth update in the paper's code,
            here in every one.
        solver, options: of the steps after the jump, on a Karras grid; more than one of them makes
            the whole better.
        every: updates of the critic for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a level outside the student's, or a fake score without a head on its own
            features.

    ``sampler(state, num_steps=n)`` is the jump and n - 1 steps. Trains on data.
    Deviations: the critic's trunk is a diffusion network, the paper's a plain one; levels and
    weight of score matching are EDM's, the paper's uniform in time with the error of the noise (its
    cut, the 499th step of a thousand, is near 2.5). The jump is an Euler step from level S, where
    published code takes what the network says of noise at T itself for the sample. Both terms are
    one loss and one optimiser's, which published code has one of each for, the generator's at 2e-5
    with betas 0 and 0.99.
    Fails: what the jump gets wrong at T nothing mends but the noise that is left there; the lower T
    the more it is a plain GAN.
    Cost: score matching, a generator call and the critic's.
    """
    if not student.low < cut < student.high:
        raise ValueError(f"cut= lies between levels {student.low} and {student.high}; got {cut}")
    if fake_score.head is None or fake_score.trunk != "fake":
        raise ValueError("TDPM's critic is a head on its own network: FakeScore(head=...)")
    head = fake_score.head

    def at(value: float, like: Array) -> Array:
        return jnp.full(like.shape[:1], value, like.dtype)

    def make(step: Step, key: Key) -> Array:
        S, T = at(student.high, step.x0), at(cut, step.x0)
        y = student.high * jax.random.normal(key, step.x0.shape, step.x0.dtype)
        return jump(y, S, T, step.student(y, S))

    def student_loss(step: Step) -> Any:
        key_level, key_noise = jax.random.split(step.key)
        s = jnp.minimum(log_normal_levels(key_level, step.x0, mean, std), cut)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        weight = edm_weight(s, student.sigma_data)
        matched = score_matching_loss(step.student, step.x0, s, eps, weight)
        game = head.game.student(step.logits(step.x, at(cut, step.x)))
        return matched + adversarial * game, {"matching": jnp.mean(matched), "game": game}

    def critic_loss(step: Step) -> Array:
        eps = jax.random.normal(step.key, step.x0.shape, step.x0.dtype)
        T = at(cut, step.x0)
        real = perturb(step.x0, T, eps)
        value = head.game.critic(step.logits(real, T), step.logits(step.x, T))
        return value + penalty * gradient_penalty(lambda y: step.logits(y, T), real)

    def tables(num_steps: int, levels: list[float] | None = None) -> Table:
        if num_steps < 2 and levels is None:
            raise ValueError(
                f"the jump needs at least one step after it: steps >= 2, not {num_steps}"
            )
        rest = grids.karras(num_steps - 1, student.low, cut).tolist() if levels is None else levels
        return table(solver, [student.high, *rest], **(options or {}))

    slow = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))
    return two_players(
        student,
        fake_score,
        make,
        student_loss,
        critic_loss,
        tables,
        teacher=None,
        optimisers=(slow, optax.adam(2.5e-3, b1=0.0, b2=0.99)),
        every=every,
    )
