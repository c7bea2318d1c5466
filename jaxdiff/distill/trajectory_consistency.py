"""Consistency trajectory models: jumps between any two levels, taught by a teacher's trajectories.

    G(y, t -> s) = (s/t) y + (1 - s/t) g(y, t, s),        g(y, t, t) = D(y, t)

A jump t -> s from y_t = x0 + t eps is compared with a jump u -> s from where the teacher's solver
takes y_t at a level s <= u < t, both carried on to the data by a target network G':

    L_CTM = E d( G'(G(y_t, t -> s), s -> 0), sg G'(G(Solver(y_t, t -> u), u -> s), s -> 0) )

u = s is learning whole trajectories, u next to t and s = 0 is consistency distillation. Score
matching of g(y, t, t) = D, and a critic that sees the left argument of d, are added with weights
that make all gradients equally long:

    L = L_CTM + w L_DSM + w' L_GAN,    w = |grad L_CTM|/|grad L_DSM|, and likewise w'.

Source: Kim et al. 2310.02279, sections 3 and 4. Levels are those of a Karras grid, which
ends at 0 here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import Distance, squared
from jaxdiff.distill.adversarial import Critic, balanced, with_critic
from jaxdiff.distill.consistency import student_levels
from jaxdiff.distill.levels import grid_index, karras_level, log_normal_levels
from jaxdiff.distill.primitives import jump, perturb
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.distill.student import Step, Student, jump_table, regression
from jaxdiff.distill.teacher import SolverStep, rollout
from jaxdiff.method import Batch, Context, Method, Metrics
from jaxdiff.prediction import edm_weight, expand
from jaxdiff.sampling.table import Table
from jaxdiff.solvers.singlestep import heun_step
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params

Map = Callable[..., Array]


class Draw(NamedTuple):
    """Where a jump t -> s and the teacher's point u of the same trajectory are, (batch,) each:
    levels t > u >= s, or their numbers on a grid of N levels, 0 the highest and N for level 0.
    """

    t: Array
    u: Array
    s: Array


def draw(key: Key, x0: Array, scales: int, most: int) -> Draw:
    """Draw n solver steps from 1 .. most with probability proportional to n, t uniformly where so
    many steps fit, u = t + n, and s uniformly from u .. N (as the published code does).
    """
    key_n, key_t, key_s = jax.random.split(key, 3)
    logits = jnp.log(jnp.arange(1, most + 1, dtype=x0.dtype))
    n = 1.0 + jax.random.categorical(key_n, logits, shape=x0.shape[:1]).astype(x0.dtype)
    t = grid_index(key_t, x0, scales - n)
    return Draw(t, t + n, t + n + grid_index(key_s, x0, scales + 1.0 - t - n))


def to_data(f: Map, y: Array, s: Array) -> Array:
    """Jump from level s to 0; where s is 0 already, stay."""
    above = s > 0
    x = f(y, jnp.where(above, s, 1.0), target=jnp.zeros_like(s))
    return jnp.where(expand(above, y) > 0, x, y)


def estimate(f: Map, target: Map, y: Array, t: Array, s: Array) -> Array:
    """The data that a jump t -> s by f leads to, carried on by the target network."""
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


def jump_tables(student: Student, middle: tuple[float, ...] = (0.821,)) -> Callable[..., Table]:
    """``tables(steps, levels=None, gamma=0)``: jumps from level to level, with noise between them
    if ``gamma`` is not 0 (:func:`jaxdiff.solvers.gamma_sampling`).
    """

    def tables(steps: int, levels: list[float] | None = None, gamma: float = 0.0) -> Table:
        levels = student_levels(steps, student.high, middle) if levels is None else levels
        return jump_table(levels, gamma)

    return tables


def trajectory_consistency(
    teacher: Denoiser,
    student: Student,
    *,
    scales: int = 18,
    most: int = 17,
    rho: float = 7.0,
    step: SolverStep = heun_step,
    distance: Distance = squared,
    target: float = 0.999,
    denoising: float = 1.0,
    mean: float = -1.2,
    std: float = 1.2,
    last: Callable[[str], bool] | None = None,
    critic: Critic | None = None,
    adversarial: float = 1.0,
    critic_from: int = 50_000,
    middle: tuple[float, ...] = (0.821,),
) -> Method:
    """Consistency trajectory model, CTM (Kim et al., arXiv 2310.02279, algorithm 1).

    Sampled in jumps; ``sampler(state, steps=n, gamma=...)`` adds noise between them (0 none, 1 as a
    consistency model does). It is of use for many steps too: more of them do not blur.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: of two labels, level and target; usually starts as the teacher. Adam with learning
            rate 4e-4 by default.
        scales, rho: of the Karras grid between the student's levels ``low`` and ``high``.
        most: of the teacher's solver steps in one draw, less than ``scales``.
        distance: of two estimates of the data; the paper's is LPIPS, which needs a feature network
            (:func:`jaxdiff.distance.of_features`).
        target: decay of the target network (0.9999 in the paper's second part).
        denoising: factor of score matching, whose levels are log-normal with ``mean`` and ``std``;
            0 leaves it out.
        last: which parameters the balance of gradients is taken over
            (:func:`jaxdiff.distill.adversarial.balanced`); the paper's are those of the last layer.
        critic: a second player; None, which is the paper's first part, trains without.
        adversarial: factor of its term. critic_from: number of updates before the student heeds it;
            its weight is kept within [0.01, 10]. Adam with learning rate 2e-3 and b1 = 0 for the
            critic by default.
        middle: levels of the sampler in more than one step.

    Recipe: CIFAR-10, batches of 256 for 50,000 updates without a critic, then 528 for 30,000 and
    more with one: FID 1.98 at 1 evaluation, 1.87 at 2.
    Deviations: no LPIPS; the balance is over all parameters (free here); trajectories end at level
    0 and not at ``low``; critics get their input as it is, without augmentation; score matching has
    log-normal levels in every sample (published code: half log-normal ones in seven of ten).
    Fails: without a critic one-step samples are those of consistency distillation, somewhat soft;
    a critic needs care. The target network makes early training slow.
    Cost: four networks forward and two backward in L_CTM, one and one in score matching, hence 3.2
    times plain score matching, and up to 2 ``most`` teacher calls, in sequence; with a critic of
    the student's size about 8 times.

    Raises ValueError for ``most`` outside 1 .. scales - 1 or a decay outside [0, 1).
    """
    if not 1 <= most < scales:
        raise ValueError(f"most= must be 1 to {scales - 1}, steps on {scales} levels; got {most}")
    if not 0 <= target < 1:
        raise ValueError(f"the target network's decay lies in [0, 1); got {target}")

    def level(index: Array) -> Array:
        found = karras_level(
            index, jnp.asarray(scales, index.dtype), student.low, student.high, rho
        )
        return jnp.where(index >= scales, 0.0, found)

    def each(now: Step) -> tuple[Array, Metrics]:
        keys = jax.random.split(now.key, 4)
        at = draw(keys[0], now.x0, scales, most)
        levels = Draw(*(level(index) for index in at))
        y_t = perturb(now.x0, levels.t, _normal(keys[1], now.x0))
        steps = jnp.arange(most + 1, dtype=now.x0.dtype).reshape(-1, 1)
        path = level(jnp.minimum(at.t.reshape(1, -1) + steps, at.u.reshape(1, -1)))
        y_u = rollout(now.teacher, y_t, path, step)[-1]  # type: ignore[arg-type]

        def matching(params: Params) -> Array:
            f = now.own(student.denoiser(params))
            return jnp.mean(trajectory_loss(f, now.target, y_t, y_u, levels, distance))

        def score(params: Params) -> Array:
            f = now.own(student.denoiser(params))
            s = log_normal_levels(keys[2], now.x0, mean, std)
            weight, eps = edm_weight(s, student.sigma_data), _normal(keys[3], now.x0)
            D = lambda y, s: f(y, s, target=s)  # noqa: E731
            return jnp.mean(score_matching_loss(D, now.x0, s, eps, weight))

        def fooling(params: Params) -> Array:
            assert critic is not None
            x = estimate(now.own(student.denoiser(params)), now.target, y_t, levels.t, levels.s)
            return critic.game.student(critic.logits(now.context.params["critic"], x, now.cond))

        terms, limits, factors = [matching], [], []
        if denoising:
            terms, limits, factors = [matching, score], [(0.0, jnp.inf)], [denoising]
        if critic is not None:
            heeded = (now.context.step >= critic_from).astype(now.x0.dtype)
            terms, limits = [*terms, fooling], [*limits, (0.01, 10.0)]
            factors = [*factors, adversarial * heeded]
        value, weights = balanced(terms, now.params, limits, factors, last)
        return value, {f"weight {i}": w for i, w in enumerate(weights)}

    method = regression(
        student, each, jump_tables(student, middle), optimiser=optax.adam(4e-4), teacher=teacher,
        target=lambda n: jnp.asarray(target, float),
    )  # fmt: skip
    if critic is None:
        return method

    def samples(context: Context, batch: Batch, key: Key) -> tuple[Array, Array, Cond]:
        x0, cond = batch["image"], batch.get("label")
        key_draw, key_noise, key_dropout = jax.random.split(key, 3)
        levels = Draw(*(level(index) for index in draw(key_draw, x0, scales, most)))
        y = perturb(x0, levels.t, _normal(key_noise, x0))

        def own(params: Params) -> Map:
            D = student.denoiser(params)
            return lambda y, s, **options: D(y, s, cond, key=key_dropout, **options)

        f, slow = own(context.params["student"]), own(context.ema["student"]["target"])
        return x0, estimate(f, slow, y, levels.t, levels.s), cond

    return with_critic(method, critic, samples, optax.adam(2e-3, b1=0.0, b2=0.99))


def _normal(key: Key, like: Array) -> Array:
    return jax.random.normal(key, like.shape, like.dtype)
