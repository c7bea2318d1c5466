"""Adversarial denoising: diffusion steps whose denoised outputs a critic cannot distinguish from
data.

Between two levels t > s of a short grid, y_s = x0 + s eps and y_t = y_s + sqrt(t^2 - s^2) eps', the
model's step is x = G(y_t, z, t), with a latent z, and a draw of q(y_s | y_t, x). In a denoising
diffusion GAN (Xiao et al. 2112.07804) a critic sees the pair,

    E_q l(y_s, y_t, t)  against  E_G l(q(y_s | y_t, x), y_t, t),

so that every conditional distribution, of many modes, is matched where a Gaussian could not be; no
teacher is needed. In UFOGen (Xu et al. 2311.09257) the critic sees y_s = x + s eps alone, and how
y_t depends on it is matched by the divergence of two Gaussians of variance t^2 - s^2, that is by
reconstruction,

    softplus(-l(x + s eps, s)) + gamma |x - x0|^2/(2 (t^2 - s^2)),

so that G can be sampled in one step; both networks start as a diffusion model.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff import solvers
from jaxdiff.distance import squared
from jaxdiff.distill.parts.critic import SOFTPLUS, Critic, with_critic
from jaxdiff.distill.parts.frame import Step, given, regression
from jaxdiff.distill.parts.generator import generator_tables
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    FakeScore,
    Penalty,
    discriminator_loss,
    generator_loss,
    same_noise,
    two_players,
)
from jaxdiff.distill.score.moment_matching import ancestral_step
from jaxdiff.method import Batch, Context, Method, Metrics
from jaxdiff.ranges import Count, NotNegative, in_range
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Cond, Key

_PENALTY = Penalty(0.01)


class Stepped(NamedTuple):
    """A sample x of a step from level t to s (batch,)."""

    x: Array
    t: Array
    s: Array


class Pair(NamedTuple):
    """Two states of one diffusion, at levels t > s (batch,)."""

    y_t: Array
    t: Array
    y_s: Array
    s: Array


def neighbours(key: Key, x0: Array, levels: Sequence[float]) -> Pair:
    """States of data at two neighbouring levels, drawn per sample."""
    keys = jax.random.split(key, 3)
    which = grid_index(keys[0], x0, len(levels) - 1).astype(jnp.int32)
    grid = jnp.asarray(list(levels), x0.dtype)
    t, s = grid[which], grid[which + 1]
    y_s = perturb(x0, s, jax.random.normal(keys[1], x0.shape, x0.dtype))
    rise = jnp.sqrt((t - s) * (t + s))
    return Pair(perturb(y_s, rise, jax.random.normal(keys[2], x0.shape, x0.dtype)), t, y_s, s)


@in_range
def ddgan(
    student: Student,
    critic: Critic,
    *,
    levels: Sequence[float] = (80.0, 4.0, 1.3, 0.5, 0.0),
    latent: int = 100,
    penalty: NotNegative = 0.01 / 15,
) -> Method:
    """Denoising diffusion GAN (Xiao et al., arXiv 2112.07804, section 4).

    Args:
        student: of labels (batch, 1 + latent), the latent's numbers beside the level. Adam at
            1.6e-4 with betas 0.5 and 0.9 by default.
        critic: ``critic.logits(params, y_s, (y_t, t, s, cond))``; by default its game is softplus,
            and Adam at 1.25e-4 trains it.
        levels: of the steps, the last 0; four by default, about those of the paper's schedule of
            four steps (its betas from 0.1 to 20 in a variance-preserving process).
        latent: length of z.
        penalty: factor of R1 in y_s, 0.02/2 in every fifteenth update in the paper, here in every
            one.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for levels that do not decrease to 0 or a latent below 1.

    No teacher, and no diffusion model to start from: it trains on data. Sampled in as many steps as
    trained for, each with a latent of its own (:class:`jaxdiff.sampling.sampler.Sampler`).
    Recipe: CIFAR-10, 4 steps, batches of 256, 1800 epochs, cosine decay to 1e-5, averages 0.9999.
    Deviations: the latent enters as further labels, not through a mapping network.
    Fails: in one step it is a plain GAN, unstable; each number of steps is another training.
    Cost: a generator and a critic call per update of the student; a generator call and two of the
    critic's with gradient, twice differentiated for the penalty, for the other.
    """
    levels = [float(s) for s in levels]
    if len(levels) < 2 or levels[-1] != 0 or any(t <= s for t, s in pairwise(levels)):
        raise ValueError(f"the steps' levels decrease to 0; got {levels}")
    if latent < 1:
        raise ValueError(f"a latent has at least one number, not {latent}")
    game = critic.game or SOFTPLUS

    def ancestral(D: Any, pair: Pair, key: Key) -> Array:
        key_latent, key_noise = jax.random.split(key)
        z = jax.random.normal(key_latent, (len(pair.t), latent), pair.t.dtype)
        x = D(pair.y_t, pair.t, extra=z)
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        return ancestral_step(pair.y_t, pair.t, pair.s, x, noise)

    def student_loss(step: Step) -> Array:
        key_pair, key_step = jax.random.split(step.key)
        pair = neighbours(key_pair, step.x0, levels)
        made = ancestral(step.student, pair, key_step)
        given = (pair.y_t, pair.t, pair.s, step.cond)
        return game.student(critic.logits(step.context.params["critic"], made, given))

    def samples(context: Context, batch: Batch, key: Key) -> tuple[Array, Array, Cond]:
        key_label, _, key_pair, key_step = jax.random.split(key, 4)
        cond = student.condition(key_label, batch)
        D = given(student.denoiser(context.params["student"]), cond)
        pair = neighbours(key_pair, batch["image"], levels)
        return pair.y_s, ancestral(D, pair, key_step), (pair.y_t, pair.t, pair.s, cond)

    def tables(num_steps: int = len(levels) - 1) -> Table:
        if num_steps != len(levels) - 1:
            raise ValueError(f"this student samples in {len(levels) - 1} steps, not {num_steps}")
        return table(solvers.ddim, levels, eta=1.0)

    method = regression(student, student_loss, tables, optimiser=optax.adam(1.6e-4, b1=0.5, b2=0.9))
    adam = optax.adam(1.25e-4, b1=0.5, b2=0.9)
    method = with_critic(method, critic, samples, adam, penalty, game)

    def sampler(state: Any, num_steps: int = len(levels) - 1, **options: Any) -> Sampler:
        return method.sampler(state, num_steps=num_steps, **options)._replace(latent=latent)

    return method._replace(sampler=sampler)


@in_range
def ufogen(
    student: Student,
    fake_score: FakeScore,
    *,
    levels: Sequence[float] = (80.0, 4.0, 1.3, 0.5, 0.0),
    reconstruction: NotNegative = 1.0,
    penalty: Penalty = _PENALTY,
    every: Count = 1,
) -> Method:
    """UFOGen (Xu et al., arXiv 2311.09257, section 3).

    Args:
        student: starts as a diffusion model. Adam at 1e-5 by default, for itself and the fake
            score.
        fake_score: with a head on its own network's features, that starts as the same model.
        levels: of the steps, the last 0: the student denoises from one and the critic compares at
            the next.
        reconstruction: gamma, 1 being the divergence of the two per number of x.
        penalty: R1 on noisy data.
        every: updates of the critic for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score without a head on its own features.

    Trains on data. Sampled in one evaluation, or in several as a consistency model is.
    The pairs of levels are neighbours on a short grid, as in the paper's algorithm 1; its critic
    moves before the student in each update.
    Deviations: data and samples that the critic compares have the same noise. The first author's
    later code, for latents of ImageNet, draws t from all of a thousand steps, with s a quarter of
    them below; its reconstruction is the error of the noise, |x - x0|^2/t^2 here, its critic a
    whole network that gives a map of logits and has no gradient where it is right by more than 0.5
    (a :class:`jaxdiff.distill.parts.critic.Game` of the head), without a penalty, moved in every
    second update; both have Adam at 1e-4, the critic's with b1 = 0, clipped at norm 1.
    Fails: where the critic wins, samples are those of a regression, blurred; too much
    ``reconstruction`` blurs too.
    Cost: one generator and one critic call per update of the student, as many and two for the
    other.
    """
    if fake_score.head is None or fake_score.trunk != "fake":
        raise ValueError("UFOGen's critic is a head on its own network: FakeScore(head=...)")

    def make(step: Step, key: Key) -> Stepped:
        pair = neighbours(key, step.x0, levels)
        return Stepped(step.student(pair.y_t, pair.t), pair.t, pair.s)

    def student_loss(step: Step) -> Any:
        x, t, s = step.x
        y = perturb(x, s, jax.random.normal(step.key, x.shape, x.dtype))
        error = squared(x, step.x0) / (2.0 * (t - s) * (t + s))
        adversarial = generator_loss(step, fake_score, y, jnp.maximum(s, student.low))
        return adversarial + reconstruction * error, {"reconstruction": jnp.mean(error)}

    def critic_loss(step: Step) -> tuple[Array, Metrics]:
        x, _, s = step.x
        eps = jax.random.normal(step.key, x.shape, x.dtype)
        pair = same_noise(step._replace(x=x), jnp.maximum(s, student.low), eps)
        return discriminator_loss(step, fake_score, *pair, penalty)

    adam = optax.adam(1e-5)
    return two_players(
        student, fake_score, make, student_loss, critic_loss, generator_tables(levels[:-1]),
        teacher=None, optimisers=(adam, adam), every=every,
    )  # fmt: skip
