"""Every term of the losses of maps of two times, of roll-outs and of straight lines, as those of
test_terms: weights, laws of times, averages, labels and dropout keys.

Losses that take a derivative of the student are computed anew with complex steps, which are exact:
the students are rational functions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recording_network import (
    BATCH,
    COUNT,
    HIGH,
    LABEL,
    LOW,
    OWN,
    PATH,
    SLOW,
    START,
    STATES,
    X0,
    Noting,
    euler,
    karras,
    log_normal,
    loss_of,
    lower,
    place,
    requested,
    squared,
    teacher,
    uniform,
)  # fmt: skip
from helpers.recording_network import f as plain
from scipy.stats import norm

from jaxdiff import distill, solvers
from jaxdiff.distance import absolute
from jaxdiff.distill.flow_map import flow_map
from jaxdiff.distill.parts import critic as adversarial
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.rectified_flow import reflow_distillation, u_shaped_times
from jaxdiff.process import EDM
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

DATA, FIRST, LAST = 0.6, LOW / (1 + LOW), HIGH / (1 + HIGH)  # of the data; ends of flow time
CLASSES = np.arange(COUNT, dtype=np.int32) % 3  # number 2 is no class
CRITIC = {"w": np.array([0.3, -0.5]), "b": np.float64(0.2)}


def f(params, y, level, *recorded, cond=LABEL):
    return plain(params, y, level, *recorded) + 0.5 * cond[:, None].astype(y.dtype)


def u(params, x, t, r, *recorded, cond=LABEL):
    """The student as an average field in flow time."""
    levels = t / (1 - t), r / (1 - r)
    return (x - f(params, x / (1 - t)[:, None], *levels, *recorded, cond=cond)) / t[:, None]


def rate(g, *directions):
    """The derivative along directions (place, direction), by a complex step."""
    return g(*(a + 1e-30j * d for a, d in directions)).imag / 1e-30


def path_of(one, cond=LABEL):
    """x, t, r and eps - x0 of a call, whose noise is normal, and whose labels are the batch's."""
    lower(one.y, one.s, one.s)
    np.testing.assert_array_equal(one.cond, cond)
    t, r = one.s / (1 + one.s), one.further[0] / (1 + one.further[0])
    assert (r <= t + 1e-15).all() and r.min() > FIRST - 1e-12 and t.max() < LAST + 1e-12
    return (1 - t)[:, None] * one.y, t, np.minimum(r, t), (one.y - X0) / one.s[:, None] - X0


def taught(x, t):
    """The teacher's field."""
    return (x - teacher(x / (1 - t)[:, None], t / (1 - t), LABEL)) / t[:, None]


def median(found, wanted, atol=0.15):
    np.testing.assert_allclose(np.median(found), wanted, atol=atol)


def logit(t):
    return np.log(t / (1 - t))


def split(calls):
    """Calls whose two levels are the same, and the others."""
    still = [call for call in calls if np.array_equal(call.s, call.further[0])]
    return still, [call for call in calls if not np.array_equal(call.s, call.further[0])]


def adaptive(d, power, c):
    error = np.sum(d**2, axis=1)
    return error * (error + c) ** -power


def normalised(d, power, c):
    return np.sum(d**2, axis=1) * (np.sum(d**2, axis=1) ** 0.5 + c) ** (-2 * power)


def off(x, t, r, v, *recorded, share=1.0, along=None, cond=LABEL):
    """What u is off v - share (t - r) du/dt."""
    flow = (x, v if along is None else along), (t, 1.0)
    change = rate(lambda x, t: u(OWN, x, t, r, *recorded, cond=cond), *flow)
    return u(OWN, x, t, r, *recorded, cond=cond) - v + share * (t - r)[:, None] * change


def logit_normal(t, r, apart, mean, std):
    """Both of one law, the larger being t; medians, which do not see the ends cut off."""
    assert abs((r < t).mean() - apart) < 0.05
    two = norm.ppf([0.5**0.5, 1 - 0.5**0.5]) * std + mean
    median(logit(t), two[0], 0.12 * std)
    median(logit(r[r < t]), two[1], 0.15 * std)


def mean_flow(one):
    """In the middle of the warm-up."""
    x, t, r, v = path_of(one)
    logit_normal(t, r, 0.75, -2, 2)
    return adaptive(off(x, t, r, v, share=0.5), 0.75, 1e-3)


def taught_mean_flow(one):
    x, t, r, _ = path_of(one)
    return normalised(off(x, t, r, taught(x, t)), 0.75, 1e-3)


def guide(x, t, v, omega, kappa, *recorded):
    """The guided field, where there is a label."""
    own, null = (u(OWN, x, t, t, *recorded, cond=c) for c in (CLASSES, np.full_like(CLASSES, 2)))
    guided = omega * v + kappa * own + (1 - omega - kappa) * null
    return np.where((CLASSES < 2)[:, None], guided, v)


def guided_mean_flow(*calls):
    _, (one,) = split(calls)
    x, t, r, v = path_of(one, CLASSES)
    return adaptive(off(x, t, r, guide(x, t, v, 1.7, 0.3), cond=CLASSES), 0.5, 1e-2)


def improved_mean_flow(*calls, kappa=None):
    """The derivative runs along the network's own field."""
    _, (one,) = split(calls)
    labels = LABEL if kappa is None else CLASSES
    x, t, r, v = path_of(one, labels)
    logit_normal(t, r, 0.5, -0.4, 1)
    recorded = one.further[1:]
    if kappa is not None:
        inside = (recorded[1] <= t) & (t <= recorded[2])
        uniform(-np.log(1 - recorded[0]) / np.log(kappa))
        v = guide(x, t, v, 1.0, np.where(inside, recorded[0], 0.0)[:, None], *recorded)
    own = u(OWN, x, t, t, *recorded, cond=labels)
    return adaptive(off(x, t, r, v, *recorded, along=own, cond=labels), 1.0, 1e-2)


def interval(one):
    """Lengths are logit-normal, the ends uniform in what they leave, but for the cut."""
    x, t, r, _ = path_of(one)
    median(logit(t - r), -0.8)
    free = (t < LAST) & (r > FIRST)
    uniform(r[free] / (1 - t + r)[free])
    return x, t, r


def aligned(one):
    x, t, r = interval(one)
    return normalised(off(x, t, r, taught(x, t), share=0.5), 0.7, 0.2)


def aligned_ends(one):
    x, t, r = interval(one)
    value, length = u(OWN, x, t, r), (t - r)[:, None]
    target = taught(x - length * value, r) + 0.5 * length * rate(
        lambda r: u(OWN, x, t, r), (r, 1.0)
    )
    return normalised(value - target, 1.0, 0.1)


def triangle(one):
    """A quarter uniform in the triangle, the rest on its diagonal."""
    x, t, r, v = path_of(one)
    still = one.s == one.further[0]
    assert abs(still.mean() - 0.75) < 0.05
    uniform(t[still]), uniform(t[~still] ** 2), uniform((1 - r[~still]) ** 2)
    return x, t, r, v, still[:, None]


def moving_end(*calls):
    _, (one,) = split(calls)
    x, t, r, v, still = triangle(one)
    value, length = u(OWN, x, t, r), (t - r)[:, None]
    v = np.where(still, v, u(OWN, x - length * value, r, r))
    return adaptive(value - length * rate(lambda r: u(OWN, x, t, r), (r, 1.0)) - v, 0.0, 1e-3)


def moving_start(*calls):
    """With a teacher's field on the diagonal."""
    _, (one, *_) = split(calls)
    x, t, r, _, still = triangle(one)
    v = np.where(still, taught(x, t), u(OWN, x, t, t))
    jump = lambda x, t: x - (t - r)[:, None] * u(OWN, x, t, r)  # noqa: E731
    return adaptive(rate(jump, (x, v), (t, 1.0)), 0.5, 1e-2)


def two_jumps(*calls, halfway=False):
    """By way of q, uniform in between or halfway."""
    one, part = sorted(calls, key=lambda call: (-call.s.mean(), call.further[0].mean()))[:2]
    x, t, r, v, still = triangle(one)
    q = part.further[0] / (1 + part.further[0])
    w = np.where(still, 0.5, (t - q)[:, None] / np.where(still, 1.0, (t - r)[:, None]))
    np.testing.assert_allclose(w[~still], 0.5) if halfway else uniform(w[~still])
    first = u(OWN, x, t, q)
    two = w * first + (1 - w) * u(OWN, x - (t - q)[:, None] * first, q, r)
    return adaptive(u(OWN, x, t, r) - np.where(still, v, two), 0.0, 1e-3)


def moments(*calls):
    """Groups of 4; a quarter of them jump to the end. Time t is level DATA t/(1 - t)."""
    one, two = sorted(calls, key=lambda call: -call.s.mean())
    lower(one.y, one.s, one.s)
    t, s = (a / (a + DATA) for a in (one.s, one.further[0]))
    np.testing.assert_array_equal(one.further[0], two.further[0])
    first, last = LOW / (LOW + DATA), HIGH / (HIGH + DATA)
    uniform(t[::4], first, last)
    end = np.isclose(s, first, rtol=1e-9)
    assert abs(end[::4].mean() - 0.25) < 0.08
    uniform(((s - first) / (t - first))[~end][::4])
    start, end, r = one.s, one.further[0], np.maximum(one.s - (HIGH - LOW) / 2**4, one.further[0])
    np.testing.assert_allclose(two.s, r, rtol=1e-9)

    def arrive(y, start):
        found = euler(y, start, end, f(OWN, y, start, end))
        return ((1 - s)[:, None] * found).reshape(-1, 4, 2)

    a, b = arrive(one.y, start), arrive(lower(one.y, start, r), r)
    t, s = t[::4], s[::4]
    width = DATA * ((1 - s) * t - (1 - t) * s) / (t**2 + (1 - t) ** 2) ** 0.5

    def kernel(a, b):
        apart = np.linalg.norm(a[:, :, None] - b[:, None], axis=3)
        return np.exp(-np.maximum(apart, 1e-8) / (2 * width[:, None, None])).mean((1, 2))

    log_snr = 2 * np.log((1 - t) / t)
    weight = 0.5 / (1 + np.exp(log_snr - 4)) * 2 / (t * (1 - t))
    weight = weight * (1 - t) ** 1.5 / (t**2 + (1 - t) ** 2)
    return weight * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


def halves(*calls):
    """Two fifths of the batch learn from two half steps of the average, clipped."""
    (one,), count = [c for c in calls if len(c.y) == COUNT], round(0.4 * COUNT)
    lower(one.y, one.s, one.s)
    t, r = (a / (1 + a) / LAST for a in (one.s, one.further[0]))
    d = t - r
    size = 2.0 ** place(d[:count], 0.5 ** np.arange(3), [1, 1, 1])
    part = t[:count] * size  # 1 .. size
    np.testing.assert_allclose(part, np.round(part))
    for n in (2, 4):
        place(part[size == n], np.arange(n + 1.0), [0] + n * [1])
    np.testing.assert_allclose(d[count:], 1 / 8)
    place(t[count:], np.arange(9) / 8, [0] + 8 * [1])
    t, d, x = LAST * t, LAST * d, one.y / (1 + one.s)[:, None]
    aim, rows = (one.y - X0) / one.s[:, None] - X0, slice(0, count)
    half, slow = d[rows] / 2, functools.partial(u, SLOW, cond=LABEL[rows])
    intermediate, end = t[rows] - half, np.maximum(t - d, 0)
    first = slow(x[rows], t[rows], intermediate)
    second = slow(x[rows] - half[:, None] * first, intermediate, end[rows])
    aim[rows] = np.clip((first + second) / 2, -1.5, 1.5)
    return squared(u(OWN, x, t, end), aim)


def jumped(params, y, t, s, target):
    """A jump t -> s, carried on to the data by the average."""
    z, up = euler(y, t, s, f(params, y, t, s)), s > 0
    return np.where(up[:, None], f(target, z, np.where(up, s, 1.0), 0.0 * s), z)


def trajectories(*calls, critic=1.3):
    """One to three Heun steps on a grid of 5 levels and 0; score matching as heavy as 0.7 of the
    gradient in scale, the critic as 1.3.
    """
    (score,), jumps = split(calls)
    above = [call for call in jumps if call.further[0].any()]
    one, *_, two = sorted(above, key=lambda call: -call.s.mean())
    t, s, u_ = one.s, one.further[0], two.s
    np.testing.assert_array_equal(two.further[0], s)
    grid, law = np.append(karras(5), 0.0), np.zeros((6, 6, 6))
    for n in (1, 2, 3):
        for i in range(5 - n):
            law[i, i + n, i + n :] = n / (5 - n) / (6 - i - n)
    shares = law.sum((1, 2)), law.sum((0, 2)), law.sum((0, 1))
    i, j, _ = (place(a, grid, p) for a, p in zip((t, u_, s), shares, strict=True))
    place(1.0 * (j - i), np.arange(4.0), [0, 1, 2, 3])
    z = lower(one.y, t, t)
    for k in range(3):
        a, b = grid[i + k - (i + k > j)], grid[np.minimum(i + k + 1, 5)]
        moves, b = (i + k < j)[:, None], np.where(i + k < j, b, a / 2)
        slope = (z - teacher(z, a, LABEL)) / a[:, None]
        y = z + (b - a)[:, None] * slope
        slope = 0.5 * (slope + (y - teacher(y, b, LABEL)) / b[:, None])
        z = np.where(moves, z + (b - a)[:, None] * slope, z)
    aim, level = jumped(OWN, z, u_, s, SLOW), score.s
    normal, even = np.split(level, 2)  # half of the samples, down to 0.7 of the grid
    log_normal(normal, -0.9, 1.1), lower(score.y, level, level)
    ends = HIGH ** (1 / 7), LOW ** (1 / 7)
    uniform((ends[0] - even ** (1 / 7)) / (ends[0] - ends[1]), 0.0, 0.7)

    def matching(params):
        return squared(jumped(params, one.y, t, s, SLOW), aim).mean()

    def denoising(params):
        weight = level**-2 + DATA**-2
        return (weight * squared(f(params, score.y, level, level), X0)).mean()

    def generator_loss(params):
        return -logits(CRITIC, jumped(params, one.y, t, s, SLOW)).mean()

    terms = matching, denoising, generator_loss
    sizes = [abs(rate(lambda a, g=g: g(OWN | {"scale": a}), (OWN["scale"], 1.0))) for g in terms]
    weights = 1.0, 0.7 * sizes[0] / sizes[1], critic * np.clip(sizes[0] / sizes[2], 0.01, 10)
    return sum(w * term(OWN) for w, term in zip(weights, terms, strict=True))


def rolled(calls, count, every, solver, last=0.0, **options):
    """Euler steps from where the network was, which is where the step before led; the first in
    closed form. The teacher's trajectory has ``every`` steps in each of ``count``.
    """
    fine, first = karras(count * every + 1, 0.006), calls[0]
    grid, y, total = fine[::every], first.y, 0.0
    start = y / (grid[1] / HIGH + (1 - grid[1] / HIGH) * (1 - HIGH / (1 + HIGH**2) ** 0.5))
    assert abs(start.std() / HIGH - 1) < 0.05 and len(calls) == count - 1
    made = table(solver, fine, **options)
    states = trajectory(teacher, made, jnp.asarray(start), first.cond).states[::every]
    for n, call in enumerate(calls, 1):
        s, r = (np.full(len(y), level) for level in grid[n : n + 2])
        np.testing.assert_allclose(call.y, y, rtol=1e-9)
        np.testing.assert_allclose(call.s, s, rtol=1e-9)
        y = euler(y, s, r, f(OWN, y, s, *call.further, cond=call.cond))
        total = total + np.abs(y - states[n + 1]).mean(1)
    return total + last * squared(y, states[-1])


def rolled_out(*calls):
    """Three steps; the teacher is DPM-Solver++ of order 3 on a grid of 12."""
    np.testing.assert_array_equal(calls[0].cond, LABEL)
    return rolled(calls, 3, 4, solvers.dpmpp, 1.0, order=3)


def rolled_out_in_parts(*calls):
    """Half the batch in two steps by four of Euler's, half in three by nine; the label says
    which."""
    parts = []
    for k, count in enumerate((2, 3)):
        part = [call for call in calls if np.allclose(call.further[0], np.log2(count) / 4)]
        np.testing.assert_array_equal(part[0].cond, LABEL[k::2])
        parts.append(rolled(part, count, count, solvers.euler))
    return np.concatenate(parts)


def straight(one):
    uniform(one.s / (1 + one.s), 0, LAST)
    assert one.s.max() <= HIGH
    y, t = lower(one.y, one.s, one.s), (one.s / (1 + one.s))[:, None]
    return squared(((1 - t) * y - f(OWN, y, one.s)) / t, (y - X0) / one.s[:, None] - X0)


def straightened(one):
    """Stored pairs at times of a U; the noise is that of their start. L1, plus 1 of the data."""
    e, t = np.exp(4.0), one.s / (1 + one.s) / LAST
    uniform((np.exp(4 * t) - np.exp(4 * (1 - t)) + e - 1) / (2 * (e - 1)), atol=0.05)
    eps, x = (START - X0) / HIGH, f(OWN, one.y, one.s)
    np.testing.assert_allclose(one.y, X0 + one.s[:, None] * eps, rtol=1e-9)
    t = (one.s / (1 + one.s))[:, None]
    field = ((1 - t) * one.y - x) / t
    return np.abs(field - (eps - X0)).mean(1) + squared(x, X0)


def from_the_end(one, start=START, image=X0):
    np.testing.assert_allclose(one.s, HIGH)
    np.testing.assert_allclose(one.y, start, rtol=1e-12)
    return squared(f(OWN, one.y, one.s), image)


def from_an_end_made_now(one):
    assert abs(one.y.std() / HIGH - 1) < 0.05
    return from_the_end(one, one.y, teacher(one.y, one.s, LABEL))


def decoder(params, y, level, *recorded, cond=LABEL):
    """The network of trajectories: (batch, M, 2), its labels a level and M points."""
    recorded = 1 + (jnp.stack(recorded, axis=1) + cond[:, None])[:, :, None]
    return params["scale"] * y / (1 + level)[:, None, None] + params["shift"] * recorded


def decoded(one):
    """From the start, or the first of two points; 1/level, at most 50, where they are below."""
    start = np.array([0, 1])[place(one.s, STATES[:2], [1, 1])]
    np.testing.assert_array_equal(one.y, PATH[np.arange(COUNT), start][:, None] + np.zeros((2, 1)))
    for recorded, level in zip(one.further, (3.0, LOW), strict=True):
        np.testing.assert_allclose(recorded, np.log(level) / 4)
    each, g = [], decoder(OWN, one.y, one.s, *one.further)
    for k, (point, weight) in enumerate([(1, 1.0), (3, 50.0)]):
        r = np.full(COUNT, STATES[point])
        error = euler(one.y[:, 0], one.s, r, g[:, k]) - PATH[:, point]
        each.append(weight * np.abs(error).mean(1) / (1 + r**2) ** 0.5)
    return np.where(start == 0, (each[0] + each[1]) / 2, each[1])


def features(x):
    return 2.0 * jnp.tanh(x @ np.array([[1.0, -0.4, 0.3], [0.2, 0.9, -0.7]]))


def answers(x):
    return x @ np.array([[1.0, -1.0], [0.5, 0.2]])


def labelled_by_features(one):
    """As progressive distillation has it; no weight of the level."""
    y, s, x = requested(one)
    out = f(OWN, y, s)
    share = lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True)  # noqa: E731
    a, b = (share(np.asarray(features(v)) / 0.6) for v in (out, x))
    c = share(answers(out))
    decided, q = -(c * np.log(c)).sum(1).mean(), c.mean(0)
    term = 0.7 * decided + (1 - 0.7) * (q * np.log(q)).sum()
    return (b * np.log(b / a)).sum(1) + 0.4 * term


def logits(params, x, cond=LABEL):
    return x @ params["w"] + params["b"] + cond


def made_by_critics(s, **options):
    critic = adversarial.Critic(logits, CRITIC)
    return distill.trajectory_consistency(
        teacher, s, scales=5, max_steps=3, target=0.9, denoising=0.7, mean=-0.9, std=1.1,
        critic=critic, adversarial=1.3, last=lambda path: "scale" in path, **options
    )  # fmt: skip


def mse(a, b):
    return jnp.mean((a - b) ** 2, axis=1)


FREE, AYF, BIND = distill.self_distilled_flow_map, distill.align_your_flow, functools.partial
TEACHER = Sampler(teacher, table(solvers.euler, [HIGH, 0.0]))

# how a method is made, its loss at update 30, and the decay of its target network there
CASES = {
    "ctm": (BIND(made_by_critics, critic_from=30), trajectories, 0.9),
    "ctm-before": (BIND(made_by_critics, critic_from=31), BIND(trajectories, critic=0), 0.9),
    "imm": (BIND(distill.inductive_moments, k=4.0, a=1.5, b=4.0, ends=0.25), moments, None),
    "shortcut": (BIND(distill.shortcut, count=8, share=0.4, clip=1.5, target=0.95), halves, 0.95),
    "mean-flow": (BIND(distill.mean_flow, warmup_updates=60), mean_flow, None),
    "mean-flow-taught": (
        BIND(distill.mean_flow, teacher=teacher, normalise=True), taught_mean_flow, None
    ),
    "mean-flow-guided": (
        BIND(distill.mean_flow, omega=1.7, kappa=0.3, power=0.5, c=1e-2), guided_mean_flow, None
    ),
    "improved": (distill.improved_mean_flow, improved_mean_flow, None),
    "improved-guided": (
        BIND(distill.improved_mean_flow, largest=4.0), BIND(improved_mean_flow, kappa=4.0), None
    ),
    "ayf": (BIND(AYF, teacher, warmup_updates=60, power=0.7, c=0.2), aligned, None),
    "ayf-lagrangian": (
        BIND(AYF, teacher, form="lagrangian", warmup_updates=60), aligned_ends, None
    ),
    "lagrangian": (FREE, moving_end, None),
    "eulerian": (
        BIND(FREE, residual=flow_map.eulerian, teacher=teacher, power=0.5, c=1e-2),
        moving_start, None,
    ),
    "semigroup": (BIND(FREE, residual=flow_map.semigroup()), two_jumps, None),
    "semigroup-halfway": (
        BIND(FREE, residual=flow_map.semigroup(halfway=True)), BIND(two_jumps, halfway=True), None
    ),
    "sfd": (BIND(distill.sfd, teacher, last=mse), rolled_out, None),
    "sfd-v": (
        BIND(distill.sfd_v, teacher, num_steps=(3, 2), extra=(2, 1), solver=solvers.euler),
        rolled_out_in_parts, None,
    ),
    "rectified": (distill.rectified_flow, straight, None),
    "reflow": (
        BIND(distill.reflow, times=u_shaped_times, distance=absolute, perceptual=mse),
        straightened, None,
    ),
    "reflow-distillation": (reflow_distillation, from_the_end, None),
    "reflow-online": (
        BIND(reflow_distillation, teacher=TEACHER), from_an_end_made_now, None
    ),
    "operator": (
        BIND(distill.trajectory_operator, levels=STATES, keep=(1, 3), starts=2, cap=50.0),
        decoded, None,
    ),
    "features": (
        BIND(
            distill.feature_distillation, teacher, features=features, logits=answers,
            temperature=0.6, beta=0.4, gamma=0.7,
        ),
        labelled_by_features, None,
    ),
}  # fmt: skip


def run(make, network, params, batch, **options):
    """The loss, its method, and the network's inputs, from the highest levels down."""
    network = Noting(network, everywhere=True)
    method = make(
        Student(
            network,
            OWN,
            "x0",
            EDM(t_max=1e4),
            sigma_data=DATA,
            low=LOW,
            high=HIGH,
            classes=2,
            label_drop=1e-12,
        )  # fmt: skip
    )
    loss = functools.partial(loss_of, method, key=jax.random.key(2), **options)
    quick = {"xla_backend_optimization_level": 0}  # compiles faster
    found = jax.jit(loss, compiler_options=quick)(params, batch)
    jax.effects_barrier()
    return found, method, sorted(network.calls, key=lambda call: -call.s.mean())


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_that_of_its_paper(name):
    """All calls of a step share one dropout key; averages decay as they should."""
    make, wanted, decay = CASES[name]
    batch = {"image": X0, "label": CLASSES} if name.endswith("guided") else BATCH
    network = decoder if name == "operator" else f
    found, method, calls = run(make, network, OWN, batch, critic=CRITIC)
    keys = {call.key for call in calls}
    assert len(keys) == 1 and None not in keys
    np.testing.assert_allclose(found, np.mean(wanted(*calls)), rtol=1e-8)
    averages = method.players["student"].ema
    decays = {k: float(rate(jnp.asarray(30))) for k, rate in averages.items()}
    assert decays == ({} if decay is None else {"target": pytest.approx(decay)})


def test_the_critic_of_trajectories_sees_what_the_student_shows():
    options = {"player": "critic", "student": OWN, "critic": CRITIC}
    found, _, (one, _) = run(made_by_critics, f, CRITIC, BATCH, **options)
    place(one.s, np.append(karras(5), 0.0))
    fake = jumped(OWN, lower(one.y, one.s, one.s), one.s, one.further[0], SLOW)
    real, fake = (logits(CRITIC, x) for x in (X0, fake))
    wanted = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
