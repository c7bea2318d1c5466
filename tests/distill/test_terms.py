"""Every term of the losses of distillation: weights, levels, schedules, averages and dropout keys.

A student that is far from exact notes its inputs. From the states and levels it was shown,
the loss is computed anew as the paper has it, and must be the method's. What is drawn must be
spread as the paper says. Losses that take a derivative of the student alone, whose arguments are
not noted, are tested in the mean: the exact student of a Gaussian is stationary, another is not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recording_network import (
    BATCH,
    COUNT,
    GROUPED,
    HIGH,
    LABEL,
    LOW,
    MEAN,
    OWN,
    PATH,
    SD,
    SLOW,
    START,
    STATES,
    STEP,
    VARIANCE,
    X0,
    Noting,
    euler,
    f,
    huber,
    implied,
    karras,
    log_normal,
    loss_of,
    lower,
    place,
    requested,
    squared,
    teacher,
    uniform,
)
from scipy.stats import norm

from jaxdiff import distill
from jaxdiff.distill.parts.student import Student
from jaxdiff.process import EDM
from jaxdiff.solvers.steps import euler_step


def ending(params, y, level, *recorded):
    """The student of trajectories that end at LOW: an Euler step to there in place of one to 0."""
    stay = (LOW / level)[:, None]
    return stay * y + (1 - stay) * f(params, y, level, *recorded)


def neighbours(one, grid, law):
    """The two arguments of consistency at neighbouring levels of one datum and noise."""
    r = grid[place(one.s, grid, law) + 1]
    return lower(one.y, one.s, r), r


def distilled(one, two):
    """Heun's step of the teacher."""
    y, t = one.y, one.s
    _, r = neighbours(one, karras(18), [1] * 17)
    slope = (y - teacher(y, t, LABEL)) / t[:, None]
    z = y + (r - t)[:, None] * slope
    slope = 0.5 * (slope + (z - teacher(z, r, LABEL)) / r[:, None])
    return squared(ending(OWN, y, t), ending(SLOW, y + (r - t)[:, None] * slope, r))


def trained(one, two):
    """N = 12 levels, of 2 to 20, at 30 of 100 updates: sqrt(0.3 (21^2 - 2^2) + 2^2) = 11.6."""
    aim = ending(SLOW, *neighbours(one, karras(12), [1] * 11))
    return squared(ending(OWN, one.y, one.s), aim)


def easy(one, two):
    """The third stage: its gap is 2^-4 but for the sigmoid."""
    log_normal(one.s, -1.1, 2)
    r = one.s * np.maximum(1 - (1 + 8 / (1 + np.exp(one.s))) / 16, 0)
    return huber(f(OWN, one.y, one.s), f(OWN, lower(one.y, one.s, r), r)) / (one.s - r)


def improved(one, two):
    """4 intervals, of 2 to 8 in 90 updates, doubled after 30."""
    law = -np.diff(norm.cdf((np.log(karras(5)) + 1.1) / 2))
    y_r, r = neighbours(one, karras(5), law)
    gap = one.s - r
    one, two = ending(OWN, one.y, one.s), ending(OWN, y_r, r)
    return huber(one, two, 0.00054 * 2**0.5) / gap


def simplified(one, D=teacher):
    """g(r) = (1 - r) g(0) + r cos t df/dt at r = 1/2; F = (cos t x - f)/(sin t sd)."""
    y, s = lower(one.y, one.s, one.s), one.s
    log_normal(s, -1, 1.4)
    end = X0 if D is None else D(y, s, LABEL)
    t, level = np.arctan(s / SD)[:, None], s[:, None]
    x = np.cos(t) * y
    F = (np.cos(t) * x - f(OWN, y, s)) / (np.sin(t) * SD)
    dx = np.cos(t) * (x - np.cos(t) * end) / np.sin(t) - np.sin(t) * end
    rate = OWN["scale"] * ((y - end) / level / (1 + level) - y / (1 + level) ** 2)
    g = -0.5 * np.cos(t) ** 2 * (SD * F - dx) + 0.5 * SD / np.cos(t) * rate
    error = squared(g / (huber(g, 0.0)[:, None] + 0.1), 0.0)
    return np.exp(-OWN["log_variance"]) / s * error + OWN["log_variance"]


def first_stage(y, s, cond=None, *, key=None):
    return f(SLOW, y, s)


def truncated(one, two):
    """The inner loss and w_b times that at t' = 1, each in the mean over its own samples."""
    t, edge = one.s, np.isclose(one.s, 1.0)
    place(edge * 1.0, np.arange(2.0), [0.75, 0.25])
    r = t * (1 - 0.1 * (1 + 8 / (1 + np.exp(t))))
    assert (t > 1 - 1e-9).all() and (r[~edge] < 1).any() and (r > 1).any()
    y_r = lower(one.y, t, r)
    target = np.where((r < 1)[:, None], f(SLOW, y_r, r), f(OWN, y_r, r))
    each = huber(f(OWN, one.y, t), target, 1e-8) / (t - r)
    return np.where(edge, 0.1 * each / 0.25, each / 0.75)


def latent(one, two):
    """The teacher's guided step over four levels."""
    t, w = one.s, 15 * one.further[0]
    uniform(w, 3, 15)
    r = karras(21)[place(t, karras(21), [1] * 17) + 4]
    y_r = euler(lower(one.y, t, t), t, r, teacher(one.y, t) + (w * LABEL)[:, None])
    return huber(ending(OWN, one.y, t, w / 15), ending(SLOW, y_r, r, w / 15), 1e-3)


def segmented(one, params, grid, group, step):
    """One step (of data, or a teacher's) and one of the network to the end of the group."""
    y, t = one.y, one.s
    index = place(t, grid, [1] * (len(grid) - 1))
    r, end = grid[index + 1], grid[(index // group + 1) * group]
    z, inner = step(y, t, r), r > end
    safe = np.where(inner, r, t)
    z = np.where(inner[:, None], euler(z, safe, end, f(params, z, safe)), z)
    return (t**-2 + SD**-2) * squared(f(OWN, y, t), implied(y, t, z, end))


def multistep(one, two):
    """8 intervals, half way from 4 to 16, in two segments."""
    return segmented(one, OWN, np.append(karras(9)[:-1], 0.0), 4, lower)


def grouped(one, two):
    step = lambda y, t, r: euler(lower(y, t, t), t, r, teacher(y, t, LABEL))  # noqa: E731
    return segmented(one, SLOW, GROUPED, 3, step)


def one_datum(y, s, cond=None):
    return MEAN + 0.0 * y


def windows(one):
    """A teacher that knows one datum, MEAN: all lines lead there."""
    uniform(one.s / (1 + one.s), LOW / (1 + LOW), HIGH / (1 + HIGH))
    return one.s**-2 * squared(f(OWN, one.y, one.s), MEAN)


def guided(one):
    """The network is conditioned on the place of the weight in the range from 1 to 5."""
    y, s, (w,) = lower(one.y, one.s, one.s), one.s, one.further
    uniform(w)
    uniform(np.arctan(s), np.arctan(LOW), np.arctan(HIGH))
    x = teacher(y, s) + ((1 + 4 * w) * LABEL)[:, None]
    return np.maximum(s**-2, 1) * squared(f(OWN, y, s, w), x)


def progressive(one, **recorded):
    y, s, x = requested(one, **recorded)
    return np.maximum(s**-2, 1) * squared(f(OWN, y, s, *recorded.values()), x)


def guided_progressive(one):
    uniform(one.further[0])
    return progressive(one, extra=one.further[0])


def bootstrapped(*calls):
    """A step of length 0.1 along the trajectory, less from the top, and 0.7 times the boundary."""
    top, start, after = sorted(calls, key=lambda call: -call.further[0].mean())
    (t,), (r,), y, high = start.further, after.further, start.y, np.full(COUNT, HIGH)
    np.testing.assert_allclose([call.s for call in calls] + top.further, HIGH)
    first, last = np.arctan(LOW / SD), np.arctan(HIGH / SD)
    uniform(np.arctan(r / SD), first, last)
    before = np.minimum(np.arctan(r / SD) + 0.1 * (last - first), last)
    np.testing.assert_allclose(t, SD * np.tan(before), rtol=1e-9)
    x = f(OWN, y, high, t)
    x = x + (1 - r / t)[:, None] * (teacher(x + t[:, None] * y / HIGH, t, LABEL) - x)
    boundary = squared(f(OWN, y, high, high), teacher(y, high, LABEL))
    return squared(f(OWN, y, high, r), x) / 0.1**2 + 0.7 * boundary


def from_the_start(one):
    return squared(f(OWN, START, np.full(COUNT, HIGH)), X0)


def to_the_end(one):
    """Half from the start, half from any of three levels."""
    states = PATH[np.arange(COUNT), place(one.s, STATES, [4, 1, 1])]
    return squared(f(OWN, states, one.s), PATH[:, 3])


def any_jump(one):
    """Half from start to end, half between any of six pairs."""
    s, r = one.s, one.further[0]
    i, j = place(s, STATES, [9, 2, 1]), place(r, STATES, [0, 1, 2, 9])
    assert (i < j).all()
    states = PATH[np.arange(COUNT), i], PATH[np.arange(COUNT), j]
    return squared(f(OWN, states[0], s, r), implied(states[0], s, states[1], r))


# how a method is made, its loss at update 30, and the decay of its target network there
CASES = {
    "cd": (
        lambda s: distill.consistency_distillation(teacher, s, target=lambda step: 0.99),
        distilled, 0.99,
    ),
    "ct": (
        lambda s: distill.consistency_training(s, num_updates=100, last=20), trained, 0.9 ** (1 / 6)
    ),
    "ect": (lambda s: distill.easy_consistency(s, stage_updates=10), easy, None),
    "ict": (
        lambda s: distill.improved_consistency(s, num_updates=90, first=2, last=8), improved, None
    ),
    "scd": (lambda s: distill.scd(teacher, s, warmup_updates=60), simplified, None),
    "sct": (lambda s: distill.sct(s, warmup_updates=60), lambda one: simplified(one, None), None),
    "tcm": (lambda s: distill.truncated_consistency(first_stage, s, gap=0.1), truncated, None),
    "lcm": (
        lambda s: distill.latent_consistency(teacher, s, levels=karras(21), skip=4), latent, 0.95
    ),
    "multistep": (
        lambda s: distill.multistep_consistency(
            None, s, segments=2, num_updates=60, first=4, last=16
        ),
        multistep, None,
    ),
    "tract": (
        lambda s: distill.tract(teacher, s, levels=GROUPED, last=2, solver_step=euler_step),
        grouped, 0.5
    ),
    "perflow": (lambda s: distill.perflow(one_datum, s), windows, None),
    "guidance": (lambda s: distill.guidance_distillation(teacher, s), guided, None),
    "guided-progressive": (
        lambda s: distill.guided_progressive_distillation(teacher, s, num_steps=4),
        guided_progressive, None,
    ),
    "progressive": (
        lambda s: distill.progressive_distillation(teacher, s, num_steps=4), progressive, None
    ),
    "boot": (lambda s: distill.boot(teacher, s, delta=0.1, beta=0.7), bootstrapped, None),
    "knowledge": (distill.knowledge_distillation, from_the_start, None),
    "knowledge-path": (
        lambda s: distill.knowledge_distillation(s, levels=STATES), to_the_end, None
    ),
    "path": (lambda s: distill.path_distillation(s, STATES), any_jump, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_that_of_its_paper(name):
    """Calls in the order of their levels, highest first; all of a step share one dropout key.
    Averages are kept where they make the target, and decay as they should.
    """
    make, wanted, decay = CASES[name]
    network = Noting()
    method = make(Student(network, OWN, "x0", EDM(t_max=1e4), low=LOW, high=HIGH))
    found = loss_of(method, OWN, jax.tree.map(jnp.asarray, BATCH), jax.random.key(2))
    calls = sorted(network.calls, key=lambda call: -call.s.mean())
    assert len({call.key for call in calls}) == 1
    np.testing.assert_allclose(found, wanted(*calls).mean(), rtol=1e-8)
    averages = method.players["student"].ema
    decays = {k: float(rate(jnp.asarray(STEP))) for k, rate in averages.items()}
    assert decays == ({} if decay is None else {"target": pytest.approx(decay)})


def towards_data(params, x, label, cond=None, *, full=False, key=None):
    """The consistency function of the Gaussian is that of power 1/2, its denoiser of 1."""
    ratio = VARIANCE / (VARIANCE + (label * label)[:, None])
    return MEAN + ratio ** params["power"] * (x - MEAN)


@pytest.mark.parametrize("name", ["sct", "continuous"])
def test_training_in_continuous_time_is_stationary_at_the_exact_student(name):
    """In the mean over data and noise; a large c keeps the tangent's mean."""
    student = Student(towards_data, {}, "x0", low=LOW, high=HIGH)
    if name == "sct":
        method = distill.sct(student, c=1e4, warmup_updates=0, learned_weight=False)
    else:
        method = distill.continuous_training(student)
    x0 = MEAN + VARIANCE**0.5 * np.random.default_rng(1).normal(size=(20_000, 2))
    loss = lambda power: loss_of(  # noqa: E731
        method, {"power": power}, {"image": jnp.asarray(x0)}, jax.random.key(4)
    )
    gradient = jax.jit(jax.grad(loss))
    exact, other = gradient(0.5), gradient(0.8)
    assert abs(exact) < 0.1 * abs(other), (exact, other)


def test_continuous_time_runs_evenly_along_the_grid():
    """What is linear in level^(1/7), the grid's own time, has the same loss at all levels."""

    def root(params, x, label, cond=None, **_):
        stay = LOW / label[:, None]  # of the step to LOW that the student takes
        return (label[:, None] ** (1 / 7) - stay * x) / (1 - stay)

    method = distill.continuous_training(Student(root, {}, "x0", low=LOW, high=HIGH))
    found = loss_of(method, {}, {"image": jnp.asarray(X0)}, jax.random.key(5))
    np.testing.assert_allclose(found, (HIGH ** (1 / 7) - LOW ** (1 / 7)) ** 2, rtol=1e-9)
