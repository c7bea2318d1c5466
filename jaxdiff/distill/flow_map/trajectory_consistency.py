"""Consistency trajectory models: jumps between any two levels, taught by a teacher's trajectories.

    G(y, t -> s) = (s/t) y + (1 - s/t) g(y, t, s),        g(y, t, t) = D(y, t)

A jump t -> s from y_t = x0 + t eps is compared with a jump u -> s from where the teacher's solver
takes y_t at a level s <= u < t, both carried on to the data by a target network G':

    L_CTM = E d( G'(G(y_t, t -> s), s -> 0), sg G'(G(Solver(y_t, t -> u), u -> s), s -> 0) )

u = s is learning whole trajectories, u next to t and s = 0 is consistency distillation. Score
matching of g(y, t, t) = D, and a critic that sees the left argument of d, are added with weights
that make all gradients equally long:

    L = L_CTM + w L_DSM + w' L_GAN,    w = |grad L_CTM|/|grad L_DSM|, and likewise w'.

Source: Kim et al. 2310.02279, sections 3 and 4, and published code, which has G, not G', jump from
u to s. Levels are those of a Karras grid, which ends at 0 here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.consistency.consistency import student_levels
from jaxdiff.distill.parts.critic import HINGE, Critic, balanced, with_critic
from jaxdiff.distill.parts.frame import Step, given, regression
from jaxdiff.distill.parts.levels import (
    grid_index,
    karras_between,
    karras_level,
    log_normal_levels,
)
from jaxdiff.distill.parts.primitives import jump, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import jump_table
from jaxdiff.distill.parts.teacher import SolverStep, rollout
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.method import Batch, Context, Method, Metrics
from jaxdiff.prediction import edm_weight
from jaxdiff.ranges import Natural, NotNegative, Number, Positive, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.solvers.steps import heun_step
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params

Map = Callable[..., Array]


class Draw(NamedTuple):
    """Levels of a jump t -> s and of the teacher's point u of the same trajectory, (batch,) each:
    levels t > u >= s, or their numbers on a grid of N levels, 0 the highest and N for level 0.
    """

    t: Array
    u: Array
    s: Array


def draw(key: Key, x0: Array, scales: int, max_steps: int) -> Draw:
    """Draw n solver steps from 1 .. most with probability proportional to n, t uniformly where so
    many steps fit, u = t + n, and s uniformly from u .. N (as the published code does).
    """
    key_n, key_t, key_s = jax.random.split(key, 3)
    logits = jnp.log(jnp.arange(1, max_steps + 1, dtype=x0.dtype))
    n = 1.0 + jax.random.categorical(key_n, logits, shape=x0.shape[:1]).astype(x0.dtype)
    t = grid_index(key_t, x0, scales - n)
    return Draw(t, t + n, t + n + grid_index(key_s, x0, scales + 1.0 - t - n))


def denoising_levels(
    key: Key, x0: Array, low: float, high: float, mean: float, std: float, last: float = 0.7
) -> Array:
    """Return levels of score matching, (batch,): of half of the samples log-normal, of the others
    uniform on the Karras grid down to its fraction ``last`` (as the published code does).
    """
    key_normal, key_grid = jax.random.split(key)
    normal = log_normal_levels(key_normal, x0, mean, std)
    grid = karras_between(key_grid, x0, low, high, 0.0, last)
    return jnp.where(jnp.arange(len(x0)) < len(x0) // 2, normal, grid)


def to_data(f: Map, y: Array, s: Array) -> Array:
    """Jump from level s to 0; where s is 0 already, stay."""
    above = s > 0
    x = f(y, jnp.where(above, s, 1.0), target=jnp.zeros_like(s))
    return jnp.where(expand(above, y) > 0, x, y)


def estimate(f: Map, target: Map, y: Array, t: Array, s: Array) -> Array:
    """Return the data that a jump t -> s by f leads to, carried on by the target network."""
    return to_data(target, jump(y, t, s, f(y, t, target=s)), s)


def trajectory_loss(
    f: Map,
    target: Map,
    y_t: Array,
    y_u: Array,
    levels: Draw,
    distance: Distance = squared,
) -> Array:
    """L_CTM per sample, (batch,).

    f, target: ``f(y, s, target=r)``, the g of the module's text. y_t, y_u: states of one trajectory
    (batch, *shape). levels: t > u >= s, u positive.
    """
    t, u, s = levels
    aim = jax.lax.stop_gradient(estimate(f, target, y_u, u, s))
    return distance(estimate(f, target, y_t, t, s), aim)


def jump_tables(
    student: Student, intermediate: tuple[float, ...] = (0.821,)
) -> Callable[..., Table]:
    """``tables(num_steps, levels=None, gamma=0)``: jumps from level to level, with noise between
    them if ``gamma`` is not 0 (:func:`jaxdiff.solvers.gamma_sampling`).
    """

    def tables(num_steps: int, levels: list[float] | None = None, gamma: float = 0.0) -> Table:
        levels = student_levels(num_steps, student.high, intermediate) if levels is None else levels
        return jump_table(levels, gamma)

    return tables


@in_range
def trajectory_consistency(
    teacher: Denoiser,
    student: Student,
    *,
    scales: int = 18,
    max_steps: int = 17,
    rho: Positive = 7.0,
    solver_step: SolverStep = heun_step,
    distance: Distance = squared,
    target: float = 0.999,
    denoising: NotNegative = 1.0,
    mean: Number = -1.2,
    std: Positive = 1.2,
    last: Callable[[str], bool] | None = None,
    critic: Critic | None = None,
    adversarial: NotNegative = 1.0,
    critic_from: Natural = 50_000,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Consistency trajectory model, CTM (Kim et al., arXiv 2310.02279, algorithm 1).

    Sampled in jumps; ``sampler(state, num_steps=n, gamma=...)`` adds noise between them (0 none, 1
    as a consistency model does). It is of use for many steps too: more of them do not blur.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: of two labels, level and target; usually starts as the teacher. RAdam with learning
            rate 4e-4 by default.
        scales, rho: of the Karras grid between the student's levels ``low`` and ``high``.
        max_steps: of the teacher's solver steps in one draw, less than ``scales``.
        solver_step: the teacher's solver step, Heun's by default.
        distance: of two estimates of the data; the paper's is LPIPS, which needs a feature network
            (:func:`jaxdiff.distance.of_features`).
        target: decay of the target network (0.9999 in the paper's second part).
        denoising: factor of score matching; 0 leaves it out.
        mean, std: of the log-normal half of the levels of score matching
            (:func:`denoising_levels`).
        last: which parameters the balance of gradients is taken over
            (:func:`jaxdiff.distill.parts.critic.balanced`); the paper's are those of the last
            layer.
        critic: a second player; None, which is the paper's first part, trains without.
        adversarial: factor of its term.
        critic_from: number of updates before its term enters the student's loss; its weight is kept
            within [0.01, 10]. RAdam with learning rate 2e-3 and betas 0.5 and 0.9 for the critic by
            default.
        intermediate: levels of the sampler in more than one step.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for ``max_steps`` outside 1 .. scales - 1, a decay outside [0, 1), or options of
            a term that is left out.

    Recipe: CIFAR-10, batches of 256 for 50,000 updates without a critic, then 528 for 30,000 and
    more with one: FID 1.98 at 1 evaluation, 1.87 at 2.
    Deviations: no LPIPS, which needs a feature network; the balance is over all parameters (free
    here); trajectories end at level 0 and not at ``low``; critics get their input as it is, without
    augmentation, which is theirs to add; both players move in every step, which published code lets
    them do in turns, and the critic from the first on, so that it knows the student by the time its
    term enters (there both begin at that time); the number of solver steps is drawn per sample,
    there per batch.
    Fails: without a critic one-step samples are those of consistency distillation, somewhat soft;
    a critic needs care. The target network makes early training slow.
    Cost: four networks forward and two backward in L_CTM, one and one in score matching, hence 3.2
    times plain score matching, and up to 2 ``max_steps`` teacher calls, in sequence; with a critic
    of the student's size about 8 times.
    """
    if not 1 <= max_steps < scales:
        raise ValueError(
            f"max_steps= must be 1 to {scales - 1}, steps on {scales} levels; got {max_steps}"
        )
    if not 0 <= target < 1:
        raise ValueError(f"the target network's decay lies in [0, 1); got {target}")
    if critic is None and (adversarial, critic_from) != (1.0, 50_000):
        raise ValueError("adversarial= and critic_from= are of a critic, and there is no critic")
    if not denoising and (mean, std) != (-1.2, 1.2):
        raise ValueError("mean= and std= are of score matching, which denoising=0 leaves out")
    if critic is None and not denoising and last is not None:
        raise ValueError("last= is of the balance of terms, and there is one term")

    def level(index: Array) -> Array:
        found = karras_level(
            index, jnp.asarray(scales, index.dtype), student.low, student.high, rho
        )
        return jnp.where(index >= scales, 0.0, found)

    def student_loss(step: Step) -> tuple[Array, Metrics]:
        keys = jax.random.split(step.key, 4)
        at = draw(keys[0], step.x0, scales, max_steps)
        levels = Draw(*(level(index) for index in at))
        y_t = perturb(step.x0, levels.t, _normal(keys[1], step.x0))
        steps = jnp.arange(max_steps + 1, dtype=step.x0.dtype).reshape(-1, 1)
        path = level(jnp.minimum(at.t.reshape(1, -1) + steps, at.u.reshape(1, -1)))
        y_u = rollout(step.teacher, y_t, path, solver_step)[-1]  # type: ignore[arg-type]

        def matching(params: Params) -> Array:
            f = step.own(student.denoiser(params))
            return jnp.mean(trajectory_loss(f, step.target, y_t, y_u, levels, distance))

        def score(params: Params) -> Array:
            f = step.own(student.denoiser(params))
            s = denoising_levels(keys[2], step.x0, student.low, student.high, mean, std)
            weight, eps = edm_weight(s, student.sigma_data), _normal(keys[3], step.x0)
            D = lambda y, s: f(y, s, target=s)  # noqa: E731
            return jnp.mean(score_matching_loss(D, step.x0, s, eps, weight))

        def generator_loss(params: Params) -> Array:
            assert critic is not None
            x = estimate(step.own(student.denoiser(params)), step.target, y_t, levels.t, levels.s)
            logits = critic.logits(step.context.params["critic"], x, step.cond)
            return (critic.game or HINGE).student(logits)

        terms, limits, factors = [matching], [], []
        if denoising:
            terms, limits, factors = [matching, score], [(0.0, 1e4)], [denoising]
        if critic is not None:
            heeded = (step.context.step >= critic_from).astype(step.x0.dtype)
            terms, limits = [*terms, generator_loss], [*limits, (0.01, 10.0)]
            factors = [*factors, adversarial * heeded]
        value, weights = balanced(terms, step.params, limits, factors, last)
        return value, {f"weight {i}": w for i, w in enumerate(weights)}

    method = regression(
        student, student_loss, jump_tables(student, intermediate), optimiser=optax.radam(4e-4),
        teacher=teacher, target=lambda n: jnp.asarray(target, float),
    )  # fmt: skip
    if critic is None:
        return method

    def samples(context: Context, batch: Batch, key: Key) -> tuple[Array, Array, Cond]:
        key_label, _, key_draw, key_noise = jax.random.split(key, 4)
        cond = student.condition(key_label, batch)
        x0 = batch["image"]
        levels = Draw(*(level(index) for index in draw(key_draw, x0, scales, max_steps)))
        y = perturb(x0, levels.t, _normal(key_noise, x0))
        f, slow = (
            given(student.denoiser(params), cond)
            for params in (context.params["student"], context.ema["student"]["target"])
        )
        return x0, estimate(f, slow, y, levels.t, levels.s), cond

    return with_critic(method, critic, samples, optax.radam(2e-3, b1=0.5, b2=0.9))


def _normal(key: Key, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)
