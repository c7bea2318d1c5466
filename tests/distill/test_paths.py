"""TRACT, SFD, BOOT, rectified flow and PeRFlow on a Gaussian, whose flow is known in closed form.

The students here are networks that return the exact answer plus a parameter: with prediction "x0"
and process EDM a network is the denoiser itself, its input the state and its label the level.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.arrays import expand
from jaxdiff.denoisers import as_partial, denoiser, predictor
from jaxdiff.distance import chamfer, pseudo_huber, squared
from jaxdiff.distill.parts.primitives import implied, perturb
from jaxdiff.distill.parts.stage import Before
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import advance
from jaxdiff.distill.trajectory import (
    bootstrap,
    piecewise_flow,
    simple_fast,
    simple_fast_steps,
)
from jaxdiff.distill.trajectory.rectified_flow import (
    flow_loss,
    reflow,
    reflow_distillation,
    u_shaped_times,
    uniform_times,
)
from jaxdiff.distill.trajectory.reflow_rounds import reflow_stages
from jaxdiff.distill.trajectory.tract import tract, tract_stages, tract_table, tract_target
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.noise import start_noise
from jaxdiff.process import VP, RectifiedFlow
from jaxdiff.sampling.pairs import make_pairs, pairs_like
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import euler_step, heun_step, unit_first

HIGH, LOW = 20.0, 0.01
GAUSSIAN = Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))
X0 = jnp.asarray(np.random.default_rng(1).normal(size=(12, 2)) * [0.3, 0.7] + [0.2, -0.4])
KEY = jax.random.key(3)


def exact_step(D, y, s, r):
    """In place of a solver step: the exact flow."""
    return GAUSSIAN.flow(y, s.reshape(-1), r.reshape(-1))


def to_end(y, s, end):
    """The denoised output whose Euler step from s to ``end`` ends where the exact flow does."""
    return implied(y, s, GAUSSIAN.flow(y, s, end), end)


def student_of(answer):
    """A student that says ``answer(y, label)`` plus its parameter."""

    def network(params, x, label, cond=None, **_):
        return answer(x, label) + params["shift"].astype(x.dtype).reshape(1, 2)

    shift = {"shift": jnp.zeros(2)}
    return Student(network, shift, prediction="x0", low=LOW, high=HIGH)


def loss_of(method, params=None, batch=None, frozen=None, key=KEY):
    """The loss of a method's student; the target network is the one it starts from."""
    start = method.init(key)["student"]
    held = method.frozen if frozen is None else frozen
    context = Context(jnp.asarray(0), {}, {"student": {"target": start}}, held)
    batch = {"image": X0} if batch is None else batch
    loss = method.players["student"].loss
    return loss(start if params is None else params, context, batch, key)[0]


class Trained(NamedTuple):
    """What a sampler needs to know of a state."""

    params: dict


def trained(shift=0.0):
    return Trained({"student": {"shift": jnp.full(2, shift)}})


def check_stationary(method, tolerance=1e-18, batch=None):
    """The exact student's loss is zero and so is its gradient, which elsewhere it is not."""
    both = jax.jit(jax.value_and_grad(lambda p: loss_of(method, p, batch)))
    value, gradient = both({"shift": jnp.zeros(2)})
    assert value < tolerance, value
    assert np.abs(gradient["shift"]).max() < 10 * tolerance**0.5, gradient
    _, wrong = both({"shift": jnp.full(2, 0.1)})
    assert (wrong["shift"] > 1e-3).all(), wrong


# TRACT


def group_end(levels, last):
    """The end of the group that a level lies in."""
    size = (len(levels) - 1) // last
    ends = jnp.asarray(levels[size::size])

    def end(s):
        index = jnp.sum(ends[None] >= s[:, None] * (1 - 1e-9), axis=1)
        return ends[index]

    return end


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 2, 8])
def test_tract_is_exact_for_the_map_to_the_end_of_each_group(last):
    levels = grids.karras(8, LOW, HIGH)
    end = group_end(levels, last)
    student = student_of(lambda y, s: to_end(y, s, end(s)))
    exact = lambda y, s, cond=None: GAUSSIAN.flow(y, s, 0.0)  # noqa: E731 (the step to level 0)
    method = tract(exact, student, levels=levels, last=last, solver_step=exact_step)
    check_stationary(method)
    made = method.sampler(trained(), num_steps=last).table
    np.testing.assert_allclose(made.levels, levels[:: 8 // last])
    assert made.nfe == last and not made.stochastic


def test_tract_target_is_one_euler_step_to_the_end():
    """The target's own Euler step ends where the teacher's step and the jump after it end."""
    s, intermediate, end = (jnp.full(12, v) for v in (2.0, 1.2, 0.3))
    y = perturb(X0, s, jnp.ones_like(X0))
    own = lambda y, s: 0.3 * y  # noqa: E731
    for step in (euler_step, heun_step):
        x = tract_target(GAUSSIAN.denoiser, own, y, s, intermediate, end, step)
        z = step(lambda y, s: GAUSSIAN.denoise(y, s[:, 0]), y, s[:, None], intermediate[:, None])
        z = euler_step(lambda y, s: own(y, s), z, 1.2, 0.3)
        np.testing.assert_allclose(euler_step(lambda *_, x=x: x, y, 2.0, 0.3), z, rtol=1e-12)


def test_steps_to_level_zero_have_no_nan():
    """A teacher's second-order step has no second evaluation at level 0."""
    s = jnp.asarray([0.5, 0.01])
    out = advance(GAUSSIAN.denoiser, X0[:2], s, jnp.asarray([0.0, 0.0]), heun_step)
    np.testing.assert_allclose(out, GAUSSIAN.denoise(X0[:2], s))


def test_tract_phases():
    """Each phase's grid is the former one's groups, and its teacher the former one's student."""
    levels = grids.karras(8, LOW, HIGH)
    student = student_of(lambda y, s: GAUSSIAN.denoise(y, s))
    shares = []

    def own(before, share):
        shares.append(share)
        return student if before is None else student._replace(params=before.params)

    stages = tract_stages(GAUSSIAN.denoiser, own, levels, (4, 2, 1), shares=(2, 1, 1))
    assert [stage.name for stage in stages] == ["8-to-4", "4-to-2", "2-to-1"]
    method = stages[0].method(None)
    left = trained(0.5)
    np.testing.assert_array_equal(method.sampler(left, num_steps=4).table.levels, levels[::2])
    before = Before(
        lambda num_steps: method.sampler(left, num_steps=num_steps), left.params["student"]
    )
    second = stages[1].method(before)
    assert second.init(KEY)["student"] is before.params and shares == [0.5, 0.25]
    said = second.frozen["teacher"](X0, jnp.asarray(1.0)) - GAUSSIAN.denoise(X0, 1.0)
    np.testing.assert_allclose(said, 0.5)
    with pytest.raises(ValueError, match="do not fall into 3"):
        tract_stages(GAUSSIAN.denoiser, own, levels, (3, 1))
    with pytest.raises(ValueError, match="end in 0"):
        tract(GAUSSIAN.denoiser, student, levels=[2.0, 1.0])
    with pytest.raises(ValueError, match="no sampler of 9"):
        tract_table(levels, 1, 9)


# SFD


def next_level(levels):
    knots = jnp.asarray(levels)
    return lambda s: knots[jnp.sum(knots[None] > s[:, None] * (1 - 1e-9), axis=1)]


def test_sfd_is_exact_on_exact_trajectories():
    levels = simple_fast.student_grid(student_of(None), 4, LOW)
    after = next_level(levels)
    start = HIGH * jax.random.normal(KEY, (12, 2), jnp.float64)
    targets = jnp.stack([GAUSSIAN.flow(start, HIGH, s) for s in levels])
    D = lambda y, s: to_end(y, s, after(s))  # noqa: E731
    assert jnp.max(simple_fast.roll_out_loss(D, targets, levels)) < 1e-12
    off = simple_fast.roll_out_loss(lambda y, s: D(y, s) + 0.1, targets, levels)
    assert jnp.min(off) > 0.05


def test_sfd_takes_its_gradient_step_by_step():
    """The gradient is that of each step with its start held fixed, not that of the roll-out."""
    levels = [5.0, 1.0, 0.2]
    start = 5.0 * X0
    targets = jnp.stack([GAUSSIAN.flow(start, 5.0, s) for s in levels])

    def D(shift):
        return lambda y, s: 0.5 * y + shift

    total = lambda a: jnp.sum(simple_fast.roll_out_loss(D(a), targets, levels, squared))  # noqa: E731
    states = [start]
    for s, r in ((5.0, 1.0), (1.0, 0.2)):
        states.append(euler_step(D(0.1), states[-1], s, r))

    def stepwise(a):
        ends = [euler_step(D(a), states[n], *levels[n : n + 2]) for n in range(2)]
        return sum(jnp.sum(squared(end, targets[n + 1])) for n, end in enumerate(ends))

    np.testing.assert_allclose(total(0.1), stepwise(0.1), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(total)(0.1), jax.grad(stepwise)(0.1), rtol=1e-12)


@pytest.mark.parametrize("analytic", [False, True])
def test_sfd_trains_on_what_it_samples(analytic):
    """With the teacher as student the loss is what Euler's steps are off its trajectory, nearly the
    exact one; the sampler takes the very steps of the loss.
    """
    student = student_of(lambda y, s: GAUSSIAN.denoise(y, s))
    options = {"num_steps": 3, "extra": 15, "analytic": analytic, "low": LOW, "distance": squared}
    method = simple_fast.sfd(GAUSSIAN.denoiser, student, **options)
    levels = simple_fast.student_grid(student, 3, LOW)
    noise_key = jax.random.split(KEY, 3)[2]
    start = HIGH * jax.random.normal(noise_key, X0.shape, X0.dtype)
    made = table(solvers.euler, levels, first=unit_first if analytic else None)
    y, expected = start, 0.0
    for n, y in enumerate(trajectory(GAUSSIAN.denoiser, made, start).states[1:]):
        if n or not analytic:
            expected += jnp.mean(squared(y, GAUSSIAN.flow(start, HIGH, levels[n + 1])))
    np.testing.assert_allclose(loss_of(method), expected, rtol=2e-2)

    own = method.sampler(trained(), num_steps=3 - analytic)
    assert own.table.nfe == 3 - analytic
    np.testing.assert_allclose(own.table.levels, levels)


def test_sfd_v_is_conditioned_on_the_number_of_steps():
    """Each share of the batch is a roll-out of another length; the label is which."""
    counts, seen = (1, 2), set()
    grid_of = {n: simple_fast.student_grid(student_of(None), n, LOW) for n in counts}

    def exact(y, label):
        n = round(2.0 ** (4.0 * float(label[0, 1])))
        seen.add(n)
        s = label[:, 0]
        return to_end(y, s, next_level(grid_of[n])(s))

    student = student_of(exact)
    options = {
        "num_steps": counts,
        "extra": (11, 5),
        "analytic": False,
        "low": LOW,
        "distance": squared,
    }
    method = simple_fast_steps.sfd_v(GAUSSIAN.denoiser, student, **options)
    assert loss_of(method) < 5e-4 and seen == set(counts)

    y = 5.0 * X0
    for steps, recorded in ((1, 1), (2, 2), (4, 2)):
        own = method.sampler(trained(), num_steps=steps)
        expected = to_end(y, jnp.full(12, HIGH), float(grid_of[recorded][1]))
        assert own.table.nfe == steps
        np.testing.assert_allclose(own.denoiser(y, jnp.asarray(HIGH)), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="cannot be shared"):
        loss_of(method, batch={"image": X0[:1]})


def test_sfd_arguments():
    student = student_of(lambda y, s: y)
    with pytest.raises(ValueError, match="at least 2 steps"):
        simple_fast.sfd(GAUSSIAN.denoiser, student, num_steps=1)
    with pytest.raises(ValueError, match="2 numbers of steps have 1"):
        simple_fast_steps.sfd_v(GAUSSIAN.denoiser, student, num_steps=(3, 4), extra=[3])
    with pytest.raises(ValueError, match="must divide"):
        simple_fast.sfd_stages(GAUSSIAN.denoiser, lambda before, share: student, num_steps=(6, 4))
    stages = simple_fast.sfd_stages(GAUSSIAN.denoiser, lambda before, share: student)
    assert [stage.share for stage in stages] == [0.1, 0.9]


# BOOT


def signal(eps, s):
    """The exact signal: the trajectory from noise, less the noise."""
    top = jnp.full(eps.shape[0], HIGH)
    start = HIGH * eps + GAUSSIAN.denoise(HIGH * eps, top)
    return GAUSSIAN.flow(start, top, s) - s[:, None] * eps


def test_the_signal_ode():
    """dx/dlambda = D(x + s eps, s) - x, with lambda = -log s."""
    s = jnp.asarray(np.geomspace(0.02, 19.0, 12))
    x, rate = jax.jvp(lambda lam: signal(X0, jnp.exp(-lam)), (-jnp.log(s),), (jnp.ones(12),))
    expected = GAUSSIAN.denoise(x + s[:, None] * X0, s) - x
    np.testing.assert_allclose(rate, expected, atol=1e-12)


def test_boot_vanishes_with_the_step():
    """Squared local errors: delta^4 with Euler's step, delta^6 with Heun's; none with the exact
    one.
    """
    t = jnp.asarray(np.geomspace(0.05, 10.0, 12))

    def error(h, step):
        r = t * jnp.exp(-h)
        value = bootstrap.bootstrap_loss(signal, signal, GAUSSIAN.denoiser, X0, t, r, step)
        return float(jnp.sum(value))

    assert error(0.1, exact_step) < 1e-28
    for step, power in ((euler_step, 4), (heun_step, 6)):
        slope = np.log2(error(0.02, step) / error(0.01, step))
        assert abs(slope - power) < 0.15, slope
    assert jnp.max(bootstrap.boundary_loss(signal, GAUSSIAN.denoiser, X0, HIGH)) < 1e-28


@pytest.mark.slow
def test_boot_trains_the_signal():
    student = student_of(lambda y, label: signal(y / label[0, 0], label[:, 1]))
    method = bootstrap.boot(GAUSSIAN.denoiser, student, solver_step=exact_step)
    check_stationary(method, tolerance=1e-16)

    own = method.sampler(trained())
    end = own(KEY, 12, (2,))
    eps = jnp.asarray(own.table.levels[0], jnp.float32) * 0 + _start(12) / HIGH
    truth = signal(eps.astype(float), jnp.full(12, LOW)) + LOW * eps.astype(float)
    np.testing.assert_allclose(end, truth, atol=2e-3)  # a part low/high of the signal is left out
    with pytest.raises(ValueError, match="in \\(0, 1\\)"):
        bootstrap.boot(GAUSSIAN.denoiser, student, delta=0.0)


def _start(count):
    return HIGH * start_noise(KEY, count, (2,))


# rectified flow


def rectified(y, s):
    """The exact reflow of the Gaussian's flow: its image, from any point of the straight line."""
    spread = GAUSSIAN.variances.astype(y.dtype)[None]
    gain = jnp.sqrt(spread / (spread + HIGH**2))  # of the flow from HIGH to 0
    share = (s / HIGH)[:, None]
    centre = GAUSSIAN.mean.astype(y.dtype)[None]
    return centre + gain / (gain + share * (1.0 - gain)) * (y - centre)


def pairs_of(start):
    return {"start": start, "image": GAUSSIAN.flow(start, HIGH, 0.0)}


@pytest.mark.parametrize("kind", ["uniform", "u-shaped"])
def test_reflow_of_the_exact_flow_is_straight(kind):
    """The exact student of exact pairs has no loss; its flow is sampled by one Euler step as by
    five, and is a fixed point: its own pairs are the pairs it came from.
    """
    times = {"uniform": uniform_times, "u-shaped": u_shaped_times}
    student = student_of(rectified)
    method = reflow(student, times=times[kind], distance=pseudo_huber(0.1))
    batch = pairs_of(HIGH * X0)
    assert loss_of(method, batch=batch) < 1e-20
    check_stationary(reflow(student, times=times[kind]), batch=batch)

    for steps in (1, 5):
        own = method.sampler(trained(), num_steps=steps)
        end = sample(own.denoiser, own.table, batch["start"])
        np.testing.assert_allclose(end, batch["image"], atol=1e-12)
    flow = grids.flow(5, start=HIGH / (1 + HIGH))
    np.testing.assert_allclose(np.diff(own.table.levels / (1 + own.table.levels), 2), 0, atol=1e-12)
    np.testing.assert_allclose(own.table.levels, flow)


def test_distillation_of_a_flow_knows_its_end():
    student = student_of(lambda y, s: GAUSSIAN.flow(y, s, 0.0))
    method = reflow_distillation(student)
    check_stationary(method, batch=pairs_of(HIGH * X0))


def test_pairs_made_in_training_are_those_of_the_teacher():
    """Online pairs of a fine teacher leave exact students nearly no loss, and it no gradient."""
    teacher = Sampler(GAUSSIAN.denoiser, table(solvers.heun, grids.karras(60, 1e-3, HIGH)))
    for method in (
        reflow(student_of(rectified), teacher=teacher),
        reflow_distillation(student_of(rectified), teacher=teacher),
    ):
        assert loss_of(method) < 1e-5
        gradient = jax.grad(
            lambda model, method=method: loss_of(method, frozen={"teacher": model}),
            allow_int=True,
        )(as_partial(GAUSSIAN.denoiser))
        assert all((g == 0).all() for g in jax.tree.leaves(gradient))


def test_flow_matching_is_stationary_at_the_denoiser():
    """Mean gradient of 1-rectified flow at the exact field, within four standard errors."""
    field = predictor(
        denoiser(
            lambda p, x, label, cond=None, **_: GAUSSIAN.denoise(x, label) + p,
            jnp.zeros((1, 2)), prediction="x0", process=student_of(None).process,
        ),
        RectifiedFlow(), "flow",
    )  # fmt: skip
    count = 20_000
    keys = jax.random.split(KEY, 3)
    x0 = GAUSSIAN.sample(keys[0], count)
    eps = jax.random.normal(keys[1], x0.shape, x0.dtype)
    t = 0.1 + 0.8 * uniform_times(keys[2], x0)
    x = expand(1 - t, x0) * x0 + expand(t, x0) * eps
    residual = field(x, t) - (eps - x0)  # d loss/d parameter is this times -1/t
    each = -residual / expand(t, x0)
    error = jnp.std(each, axis=0) / count**0.5
    assert (jnp.abs(jnp.mean(each, axis=0)) < 4 * error).all()
    loss = flow_loss(field, x0, eps, t)
    np.testing.assert_allclose(loss, squared(residual, jnp.zeros_like(x0)), rtol=1e-12)
    both = flow_loss(field, x0, eps, t, squared, squared)
    data = squared(x - expand(t, x0) * field(x, t), x0)
    np.testing.assert_allclose(both, loss + data, rtol=1e-10)


def test_u_shaped_times():
    """Their distribution function is (e^(a t) - e^(a (1 - t)) + e^a - 1)/(2 (e^a - 1))."""
    t = np.sort(u_shaped_times(KEY, jnp.zeros((4000, 1))))
    e = np.exp(4.0)
    expected = (np.exp(4 * t) - np.exp(4 * (1 - t)) + e - 1) / (2 * (e - 1))
    assert np.abs(expected - np.arange(1, 4001) / 4000).max() < 1.6 / 4000**0.5
    assert t[0] > 0 and t[-1] < 1


def test_reflow_in_stages_makes_its_pairs():
    """The first stage's pairs are the teacher's, the next one's those of what the first left."""
    teacher = Sampler(GAUSSIAN.denoiser, table(solvers.euler, [HIGH, 0.0]))
    student = student_of(rectified)
    stages = reflow_stages(teacher, lambda before, share: student, pairs=10, rounds=2, num_steps=3)
    assert [stage.name for stage in stages] == ["reflow-2", "reflow-3", "distil"]
    np.testing.assert_allclose([stage.share for stage in stages], [0.3, 0.3, 0.4])
    plain = lambda step: {"image": np.asarray(X0, np.float32)}  # noqa: E731

    method = stages[0].method(None)
    left = Before(lambda num_steps: method.sampler(trained(), num_steps=num_steps), None)
    for stage, before, image in (
        (stages[0], None, lambda start: GAUSSIAN.denoise(start, HIGH)),
        (stages[2], left, lambda start: GAUSSIAN.flow(start, HIGH, 0.0)),
    ):
        batch = stage.data(plain, before)(0)
        assert batch["image"].shape == batch["start"].shape == X0.shape
        np.testing.assert_allclose(batch["image"], image(batch["start"]), atol=2e-5)


def test_pairs_have_the_labels_of_the_data():
    labels = np.arange(6, dtype=np.int32)
    plain = lambda step: {"image": np.zeros((6, 2), np.float32), "label": labels}  # noqa: E731
    maker = Sampler(
        lambda y, s, cond=None: jnp.zeros_like(y) + cond[:, None].astype(y.dtype),
        table(solvers.euler, [HIGH, 0.0]),
    )
    batch = pairs_like(plain, maker, 9, KEY)(0)
    np.testing.assert_allclose(batch["image"], np.stack([batch["label"]] * 2, 1), atol=1e-5)
    assert batch["image"].shape == (6, 2)


def test_reflow_arguments():
    student = student_of(rectified)
    with pytest.raises(ValueError, match="needs pairs"):
        loss_of(reflow(student))
    noisy = Sampler(GAUSSIAN.denoiser, table(solvers.ddim, [HIGH, 1.0, 0.0], eta=1.0))
    with pytest.raises(ValueError, match="deterministic"):
        reflow(student, teacher=noisy)
    lower = Sampler(GAUSSIAN.denoiser, table(solvers.euler, [1.0, 0.0]))
    with pytest.raises(ValueError, match="starts at level 1.0"):
        reflow(student, teacher=lower)


# PeRFlow


def test_lines_are_the_same_in_every_frame():
    """A straight line of a VP model between two times is one in y, at the interpolated level."""
    process, times = VP(), jnp.asarray([0.7, 0.3])
    alpha, sigma = process.alpha(times), process.sigma(times)
    ends = [alpha[i] * X0 + sigma[i] * X0[::-1] for i in (0, 1)]
    for u in (0.25, 0.5):
        a, s = (v[0] + u * (v[1] - v[0]) for v in (alpha, sigma))
        x = ends[0] + u * (ends[1] - ends[0])
        level = jnp.full(12, s / a)
        np.testing.assert_allclose(x / a, perturb(X0, level, X0[::-1]), rtol=1e-12)
        edges = [jnp.full(12, sigma[i] / alpha[i]) for i in (0, 1)]
        points = [ends[i] / alpha[i] for i in (0, 1)]
        exact = lambda y, s: X0  # noqa: E731 (the DDIM step's own denoised output)
        loss = piecewise_flow.window_loss(
            exact, points[0], edges[0], points[1], edges[1], level, jnp.ones(12)
        )
        assert jnp.max(loss) < 1e-24


@pytest.mark.parametrize("windows", [1, 3])
def test_perflow_is_exact_for_straight_lines_in_windows(windows):
    """The exact student knows where the line that it is on, from the exact flow, comes from."""
    plain = student_of(None)
    times = np.linspace(LOW / (1 + LOW), HIGH / (1 + HIGH), windows + 1)
    edges = jnp.asarray((times / (1 - times))[::-1])
    after = next_level(edges)

    def exact(y, s):
        inner = jnp.clip(s, edges[-1] * (1 + 1e-12), HIGH)
        b = after(inner)
        a = edges[jnp.searchsorted(-edges, -b) - 1]
        spread = GAUSSIAN.variances[None]
        gain = jnp.sqrt((spread + b[:, None] ** 2) / (spread + a[:, None] ** 2))
        share = ((s - b) / (a - b))[:, None]
        y_a = (y - GAUSSIAN.mean[None]) / (share + (1 - share) * gain)
        return implied(y_a, a, gain * y_a, b) + GAUSSIAN.mean[None]

    student = plain._replace(network=student_of(exact).network)
    options = {"windows": windows, "solves": 2, "solver_step": exact_step, "at_start": 0.3}
    check_stationary(piecewise_flow.perflow(GAUSSIAN.denoiser, student, **options), 1e-12)


def test_perflow_samples_window_by_window():
    student = student_of(lambda y, s: y)
    clock = RectifiedFlow()
    times = lambda num_steps: (  # noqa: E731
        lambda s: s / (1 + s)
    )(piecewise_flow.window_table(student, num_steps, 4, clock).levels)
    high, low = HIGH / (1 + HIGH), LOW / (1 + LOW)
    np.testing.assert_allclose(times(4)[:-1], np.linspace(high, low, 5)[:-1])
    np.testing.assert_allclose(times(8)[:-1], np.linspace(high, low, 9)[:-1])
    np.testing.assert_allclose(times(6)[[0, 2, 4, 5]], times(4)[:4])
    np.testing.assert_allclose(times(2)[:-1], np.linspace(high, low, 3)[:-1])
    assert times(1).tolist()[-1] == 0
    with pytest.raises(ValueError, match="at least 1 window"):
        piecewise_flow.perflow(GAUSSIAN.denoiser, student, windows=0)
    with pytest.raises(ValueError, match="solves >= 1"):
        piecewise_flow.perflow(GAUSSIAN.denoiser, student, solves=0)
    with pytest.raises(ValueError, match="must divide"):
        piecewise_flow.perflow_stages(GAUSSIAN.denoiser, lambda b, share: student, windows=(4, 3))


def test_merged_windows_follow_the_student_before():
    """The second stage's teacher is the first one's student, one Euler step per old window."""
    student = student_of(lambda y, s: GAUSSIAN.denoise(y, s))
    stages = piecewise_flow.perflow_stages(
        GAUSSIAN.denoiser, lambda before, share: student, windows=(4, 2), solver_step=heun_step
    )
    assert [stage.name for stage in stages] == ["4-windows", "2-windows"]
    calls = []

    def counted(y, s, cond=None):
        calls.append(s.shape)
        return GAUSSIAN.denoise(y, s)

    before = Before(lambda num_steps: Sampler(counted, table(solvers.euler, [HIGH, 0.0])), None)
    assert loss_of(stages[1].method(before)) > 0 and calls


# all


def learnt(params, x, label, cond=None, **_):
    return params["gain"] * x


@pytest.mark.parametrize("name", ["tract", "sfd", "sfd_v", "boot", "perflow"])
def test_the_teacher_is_frozen(name):
    """A teacher's parameters are arguments of the loss and get no gradient, exactly."""
    make = {
        "tract": lambda *a: tract(*a, levels=grids.karras(4, LOW, HIGH), last=2),
        "sfd": lambda *a: simple_fast.sfd(*a, num_steps=2, extra=1),
        "sfd_v": lambda *a: simple_fast_steps.sfd_v(*a, num_steps=(2,), extra=1),
        "boot": bootstrap.boot,
        "perflow": lambda *a: piecewise_flow.perflow(*a, solves=2),
    }[name]
    teacher = denoiser(learnt, {"gain": jnp.asarray(0.4)})
    student = Student(learnt, {"gain": jnp.asarray(0.3)}, low=LOW, high=HIGH)
    method = make(teacher, student)

    def loss(gain, own):
        held = {"teacher": denoiser(learnt, {"gain": gain})}
        return loss_of(method, {"gain": own}, frozen=held)

    frozen, own = jax.grad(loss, argnums=(0, 1))(jnp.asarray(0.4), jnp.asarray(0.3))
    assert frozen == 0 and own != 0 and jnp.isfinite(own)


@pytest.mark.slow
def test_chamfer():
    a = jnp.asarray([[[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]])
    b = jnp.asarray([[[0.0, 1.0], [5.0, 0.0]]])
    np.testing.assert_allclose(chamfer(a, b), (1 + 2 + 0) / 3 + (1 + 0) / 2)
    np.testing.assert_allclose(chamfer(a, b), chamfer(b[:, ::-1], a[:, [2, 0, 1]]))
    assert chamfer(a, a[:, ::-1]) == 0
    gradient = jax.grad(lambda a: chamfer(a, a[:, ::-1])[0])(a)
    assert np.isfinite(gradient).all() and (gradient == 0).all()
    with pytest.raises(ValueError, match="sets"):
        chamfer(a, b[0])


def test_pairs_for_reflow_are_the_ends_of_the_flow():
    teacher = Sampler(GAUSSIAN.denoiser, table(solvers.heun, grids.karras(40, 1e-3, HIGH)))
    made = make_pairs(teacher, 6, (2,), KEY, progress=False)
    batch = {k: jnp.asarray(v, jnp.float64) for k, v in made.items()}
    assert loss_of(reflow(student_of(rectified)), batch=batch) < 1e-5
