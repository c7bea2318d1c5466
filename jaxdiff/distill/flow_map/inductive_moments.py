"""Inductive moment matching: jumps whose distributions agree, from any two levels of one flow.

In rectified-flow time, alpha = 1 - t and sigma = t, with noise at the data's own scale, for times
s <= r < t and x_t = alpha_t x0 + sigma_t sigma_data eps, x_r with the same x0 and eps,

    y = f(x_t, t -> s),      y' = f'(x_r, r -> s),

are samples of p_s if f is right, of whatever flow. Groups of M samples that share (s, r, t) are
compared by the squared maximum mean discrepancy with a Laplace kernel of bandwidth D/c:

    L = E w(t) 1/M^2 sum_jk [k(y_j, y_k) + k(y'_j, y'_k) - 2 k(y_j, y'_k)],
    k(a, b) = exp(-c |a - b|/D),    c(s, t) = 1/|c_out(s, t)|,
    c_out(s, t) = -(alpha_s sigma_t - alpha_t sigma_s) sigma_data/(alpha_t^2 + sigma_t^2)^(1/2),
    w(t) = 1/2 sigmoid(b - l_t) (-dl/dt) alpha_t^a/(alpha_t^2 + sigma_t^2),
                                                            l = 2 log(alpha/sigma), D the dimension.

f' is f held fixed. r lies a little below t: eta_r = eta_t - (eta_max - eta_min)/2^k, eta =
sigma/alpha, and not below s, where f' is the identity and y' is data at time s. The noise level
that a denoiser is conditioned on is sigma_data eta: time 0.994 is eta = 166 and, with sigma_data =
0.5, level 83. With M = 1 it is consistency training with the distance 1 - k.

In these terms the paper's scaling of the network ("simple-EDM", section 4.2),

    f(x_t, t -> s) = c_skip(s, t) x_t + c_out(s, t) F(x_t/(sigma_data n), ...),
    c_skip = (alpha_t alpha_s + sigma_t sigma_s)/n^2,    n^2 = alpha_t^2 + sigma_t^2,

is an Euler step by EDM's denoiser around the network -F, that is, prediction "edm": a student that
starts as an EDM teacher starts as what it was.

Source: Zhou et al. 2503.07565, section 4 and appendix; scale of the noise and scaling as in the
published networks. The diagonal terms y_j, y'_j
come from one x0 and eps: they are no unbiased estimate of anything, and vanish as r nears t.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.distill.consistency.consistency import student_levels
from jaxdiff.distill.flow_map.trajectory_consistency import jump_tables
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.primitives import jump, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import norm
from jaxdiff.method import Method
from jaxdiff.process import Number
from jaxdiff.ranges import Fraction, Positive, Range, in_range
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Key


class Times(NamedTuple):
    """Rectified-flow times t > r >= s of every group."""

    t: Array
    r: Array
    s: Array


def draw_times(
    key: Key, like: Array, low: float, high: float, k: float, ends: float = 0.0
) -> Times:
    """Draw t and then s < t uniformly between the times of ``low`` and ``high``, ratios eta =
    sigma/alpha, a share ``ends`` of s at ``low`` itself; r is (high - low)/2^k below t in eta, and
    not below s. (groups,) as ``like``.
    """
    key_t, key_s, key_end = jax.random.split(key, 3)
    first, last = low / (1 + low), high / (1 + high)
    t = jax.random.uniform(key_t, like.shape, like.dtype, first, last)
    s = first + (t - first) * jax.random.uniform(key_s, like.shape, like.dtype)
    s = jnp.where(jax.random.bernoulli(key_end, ends, like.shape), first, s)
    eta = jnp.maximum(t / (1 - t) - (high - low) / 2**k, 0.0)
    return Times(t, jnp.maximum(eta / (1 + eta), s), s)


def time_weight(t: Array, a: float = 1.0, b: float = 5.0) -> Array:
    """w(t) of the module's text: 1/2 sigmoid(b - l) 2/(t (1 - t)) (1-t)^a/(t^2 + (1-t)^2).

    a = 1 favours sampling in one step, 2 in many.
    """
    log_snr = 2.0 * (jnp.log1p(-t) - jnp.log(t))
    return jax.nn.sigmoid(b - log_snr) * (1 - t) ** (a - 1) / (t * (t**2 + (1 - t) ** 2))


def bandwidth(times: Times, sigma_data: Number = 0.5) -> Array:
    """|c_out(s, t)|, by which the distance of samples is divided in the kernel; not 0 where t = s
    to rounding.
    """
    t, _, s = times
    return sigma_data * jnp.maximum(t - s, 1e-6) / jnp.sqrt(t**2 + (1 - t) ** 2)


def group_discrepancy(a: Array, b: Array, scale: Array, least: float = 1e-8) -> Array:
    """1/M^2 sum [k(a, a) + k(b, b) - 2 k(a, b)] of groups (groups, M, *shape) with k(x, y) =
    exp(-max(|x - y|, least)/(D scale)), scale (groups,); its gradient where x = y is 0.
    """

    def mean_kernel(x: Array, y: Array) -> Array:
        apart = x[:, :, None] - y[:, None, :]
        size = x[0, 0].size
        away = norm(apart.reshape(-1, size)).reshape(apart.shape[:3])
        away = jnp.maximum(away, least) / (size * scale.reshape(-1, 1, 1))
        return jnp.mean(jnp.exp(-away), axis=(1, 2))

    return mean_kernel(a, a) + mean_kernel(b, b) - 2.0 * mean_kernel(a, b)


def moment_loss(
    f: Callable[..., Array],
    target: Callable[..., Array],
    x0: Array,
    eps: Array,
    times: Times,
    sigma_data: Number = 0.5,
    a: float = 1.0,
    b: float = 5.0,
) -> Array:
    """Return the loss of every group, (groups,).

    f, target: ``f(y, level, target=lower)``, the denoised output of a jump, levels being sigma_data
    t/(1 - t). x0, eps: (batch, *shape), the groups one after another. times: (groups,) each.
    """
    groups = times.t.shape[0]
    t, r, s = (jnp.repeat(time, x0.shape[0] // groups) for time in times)

    def arrive(f: Callable[..., Array], t: Array) -> Array:
        start, end = sigma_data * t / (1 - t), sigma_data * s / (1 - s)
        y = perturb(x0, start, eps)
        x = expand(1 - s, y) * jump(y, start, end, f(y, start, target=end))
        return x.reshape(groups, -1, *x.shape[1:])

    aim = jax.lax.stop_gradient(arrive(target, r))
    apart = group_discrepancy(arrive(f, t), aim, bandwidth(times, sigma_data))
    return time_weight(times.t, a, b) * apart


def time_label(sigma_data: Number = 0.5, scale: float = 1000.0) -> Callable[[Array], Array]:
    """Return the paper's label of a level: ``scale`` times its time t = level/(level +
    sigma_data).
    """
    return lambda level: scale * level / (level + sigma_data)


@in_range
def inductive_moments(
    student: Student,
    *,
    group: int = 4,
    k: Positive = 15.0,
    a: Annotated[float, Range()] = 1.0,
    b: Annotated[float, Range()] = 5.0,
    ends: Fraction = 0.0,
    intermediate: tuple[float, ...] | None = None,
) -> Method:
    """Inductive moment matching, IMM (Zhou et al., arXiv 2503.07565, algorithm 1); no teacher.

    Args:
        student: of two labels, level and target; may start from anything, the paper from nothing.
            RAdam with learning rate 1e-4 by default. Its ``sigma_data`` is the scale of the noise
            and of the kernel's bandwidth. The paper's levels are 0.006 to 166 times it (0.003 to 83
            for images), its labels :func:`time_label`.
        group: M, the number of samples that are compared; it must divide the batch. The paper's
            batch is 4096.
        k: of the distance from t to r. Too large, and r = t to rounding teaches nothing; too small,
            and samples are blurred as a consistency model's are.
        a, b: of the weight w(t).
        ends: share of the groups that jump to the lowest level, where sampling ends; 0 is the
            paper's. s is uniform in time, so that a network that is conditioned on the logarithm of
            the level sees few of the low ones otherwise.
        intermediate: level of two-step sampling; 1.4 sigma_data by default, the paper's. The last
            jump ends at the student's lowest level.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for fewer than 1 sample per group, and when a batch is not a multiple of it.

    Deviations: none known in the loss, whose training code is not published (scaling and sampler
    are). Levels and labels are the student's.
    Fails: small groups and small batches make it noisy, since few pairs estimate a discrepancy.
    Cost: two forward passes and one backward, hence 1.3 times score matching.

    Recipe: CIFAR-10, groups of 4, batches of 4096, 400k updates: FID 3.20 at 1 evaluation, 1.98 at
    2.
    """
    if group < 1:
        raise ValueError(f"a group has at least 1 sample; got group={group}")
    scale = float(student.sigma_data)
    ratios = student.low / scale, student.high / scale
    between = (1.4 * scale,) if intermediate is None else intermediate

    def student_loss(step: Step) -> Array:
        if len(step.x0) % group:
            raise ValueError(f"a batch of {len(step.x0)} does not divide into groups of {group}")
        key_times, key_noise = jax.random.split(step.key)
        like = jnp.zeros((len(step.x0) // group,), step.x0.dtype)
        times = draw_times(key_times, like, *ratios, k, ends)
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        return moment_loss(step.student, step.target, step.x0, eps, times, scale, a, b)

    def tables(num_steps: int, levels: list[float] | None = None, gamma: float = 0.0) -> Table:
        if levels is None:  # the network knows no level below its lowest
            levels = [*student_levels(num_steps, student.high, between)[:-1], student.low]
        return jumps(num_steps, levels, gamma)

    jumps = jump_tables(student)
    return regression(student, student_loss, tables, optimiser=optax.radam(1e-4))
