"""Mean flows, align your flow and self-distilled flow maps: identities on exact maps, golden
values, and what a method does where its student is exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from jax.scipy.stats import norm as normal

from jaxdiff.arrays import expand
from jaxdiff.denoisers import denoiser, predictor
from jaxdiff.distill.flow_map import flow_map
from jaxdiff.distill.flow_map.mean_flow import improved_mean_flow, mean_flow
from jaxdiff.distill.flow_map.mean_flow_targets import (
    adaptive_loss,
    draw_guidance,
    guided_field,
    mean_flow_target,
    normalised_loss,
    teacher_field,
)
from jaxdiff.distill.flow_map.times import flow_map_tables, logit_normal_pairs, saturating, within
from jaxdiff.distill.parts import tangents
from jaxdiff.distill.parts.primitives import implied
from jaxdiff.distill.parts.student import Student
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.method import Context
from jaxdiff.process import RectifiedFlow
from jaxdiff.sampling.sample import sample
from jaxdiff.training.step import init_state

FLOW = RectifiedFlow()
GAUSSIAN = Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))
MIXTURE = GaussianMixture(
    np.array([0.3, 0.7]), np.array([[-0.6], [0.4]]), np.array([[0.04], [0.01]])
)
CASES = load("losses_fastgen").cases
COUNT = 1000  # one shape for most tests, so that operations compile once


def levels(label):
    """The levels s and r, (batch, 1), of the network's labels t and r."""
    return label[:, :1] / (1 - label[:, :1]), label[:, 1:2] / (1 - label[:, 1:2])


def as_field(denoised):
    """A denoised output g(params, y, s, r, cond), plus a shift, as a network predicting the flow:
    u = (x - g)/t.
    """

    def network(params, x, label, cond=None, *, key=None):
        t = label[:, :1]
        g = denoised(x / (1 - t), *levels(label), cond) + jnp.atleast_2d(params["shift"])
        return (x - g) / t

    return network


@as_field
def gaussian_map(y, s, r, cond):
    """The exact map of GAUSSIAN. With A, B the deviations at r and s, g = (s z_r - r z)/(s - r) =
    l (s + r)/(B (s A + r B)) z has no 0/0.
    """
    mean, l = GAUSSIAN.mean[None], GAUSSIAN.variances[None]
    A, B = jnp.sqrt(l + r**2), jnp.sqrt(l + s**2)
    return mean + l * (s + r) / (B * (s * A + r * B)) * (y - mean)


@as_field
def mixture_map(y, s, r, cond):
    """That of MIXTURE: in one dimension the flow keeps the quantile. Bisection, then one Newton
    step that carries the derivatives.
    """

    def cdf(x, level):
        z = (x - MIXTURE.means.T) / jnp.sqrt(MIXTURE.variances.T + level**2)
        return jnp.sum(MIXTURE.weights[None] * normal.cdf(z), 1)[:, None]

    same = s == r
    q = jnp.where(same, 0.5 * s, r)
    share, level = (jax.lax.stop_gradient(a) for a in (cdf(y, s), q))

    def narrow(_, bracket):
        low, high = bracket
        intermediate = 0.5 * (low + high)
        below = cdf(intermediate, level) < share
        return jnp.where(below, intermediate, low), jnp.where(below, high, intermediate)

    ends = -9.0 * (1 + level), 9.0 * (1 + level)
    low = jax.lax.fori_loop(0, 60, narrow, ends)[0]
    density = jax.jvp(lambda x: cdf(x, level), (low,), (jnp.ones_like(low),))[1]
    end = low - (cdf(low, q) - cdf(y, s)) / density
    far = implied(y, s[:, 0], end, q[:, 0])
    return jnp.where(same, MIXTURE.denoise(y, s[:, 0]), far)


def exact(network, dimension, **options):
    params = {"shift": jnp.zeros(dimension)}
    return Student(network, params, prediction="flow", process=FLOW, low=0.01, high=20.0, **options)


def field_of_mean(student, params=None):
    """The student as u(x, t, r)."""
    D = student.denoiser(student.params if params is None else params)
    u = predictor(D, FLOW, "flow")
    return lambda x, t, r: u(x, t, target=r)


PROBLEMS = [("gaussian", GAUSSIAN, gaussian_map), ("mixture", MIXTURE, mixture_map)]


@pytest.fixture(params=PROBLEMS, ids=[p[0] for p in PROBLEMS])
def truth(request):
    """A student that is exact, the exact field, and states at times t > r."""
    _, model, network = request.param
    dimension = model.sample(jax.random.key(0), 1).shape[1]
    t, r = flow_map.uniform_pairs(0.8)(jax.random.key(2), jnp.zeros((COUNT, 1)))
    t, r = within(exact(network, dimension), t, r)
    x0 = model.sample(jax.random.key(0), COUNT)
    eps = jax.random.normal(jax.random.key(1), x0.shape, x0.dtype)
    x = (1 - t)[:, None] * x0 + t[:, None] * eps
    teacher = teacher_field(lambda y, s: model.denoiser(y, s))
    return field_of_mean(exact(network, dimension)), teacher, x, t, r


@pytest.mark.slow
def test_the_exact_map_satisfies_every_identity(truth):
    u, v, x, t, r = truth
    value, target = mean_flow_target(u, x, t, r, v(x, t))
    np.testing.assert_allclose(value, target, atol=1e-9)
    value, target = flow_map.lagrangian_target(u, x, t, r, v)
    np.testing.assert_allclose(value, target, atol=1e-9)
    two = flow_map.flow_jump(
        u, flow_map.flow_jump(u, x, t, 0.6 * t + 0.4 * r), 0.6 * t + 0.4 * r, r
    )
    np.testing.assert_allclose(flow_map.flow_jump(u, x, t, r), two, atol=1e-10)
    share = mean_flow_target(u, x, t, r, v(x, t), share=0.5)[1]
    assert jnp.max(jnp.abs(share - value)) > 0.1  # the derivative is not nothing


@pytest.mark.slow
def test_residuals_of_self_distillation_vanish_at_the_exact_map(truth, key):
    u, v, x, t, r = truth
    halves = flow_map.semigroup(), flow_map.semigroup(halfway=True)
    for residual in (flow_map.lagrangian, flow_map.eulerian, *halves):
        error = residual(u, x, t, r, v(x, t), key)
        np.testing.assert_allclose(error, 0.0, atol=1e-9)


@pytest.mark.slow
def test_derivatives_are_finite_differences(key):
    weights = jax.random.normal(key, (3, 2, 5), jnp.float64)

    def network(params, x, label, cond=None):
        h = jnp.tanh(x @ weights[0] + label[:, :1] * weights[1, :1] + label[:, 1:] * weights[1, 1:])
        return h @ weights[2].T

    u = field_of_mean(Student(network, {}))
    x, v = jax.random.normal(jax.random.key(1), (2, COUNT, 2), jnp.float64)
    t, r = jnp.linspace(0.02, 0.95, COUNT), jnp.linspace(0.01, 0.3, COUNT)
    h = 1e-6
    value, target = mean_flow_target(u, x, t, r, v)
    rate = (u(x + h * v, t + h, r) - u(x - h * v, t - h, r)) / (2 * h)
    np.testing.assert_allclose(value, u(x, t, r))
    np.testing.assert_allclose(target, v - (t - r)[:, None] * rate, rtol=1e-6, atol=1e-7)
    still = lambda x, t: jnp.zeros_like(x)  # noqa: E731
    rate = (u(x, t, r + h) - u(x, t, r - h)) / (2 * h)
    target = flow_map.lagrangian_target(u, x, t, r, still)[1]
    np.testing.assert_allclose(target, (t - r)[:, None] * rate, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_gradients_are_the_theorems(key):
    """Regressing u onto its target is G^T sg[dG/dt] (Eulerian) and -G^T sg[dG/dr - v(G, r)], by
    2506.14603's theorems, up to the weight 2/(t - r).
    """
    x, t = jax.random.normal(key, (COUNT, 2), jnp.float64), jnp.linspace(0.3, 0.9, COUNT)
    r, student = 0.3 * t, exact(gaussian_map, 2)
    v = teacher_field(lambda y, s: GAUSSIAN.denoiser(y, s))
    weight = (2.0 / (t - r))[:, None]
    params = {"shift": jnp.array([0.3, -0.2])}

    def jumped(params, x, t, r):
        return flow_map.flow_jump(field_of_mean(student, params), x, t, r)

    def eulerian(params):
        tangent = (v(x, t), jnp.ones_like(t))
        _, rate = tangents.along(lambda x, t: jumped(params, x, t, r), (x, t), tangent)
        return jnp.sum(weight * jumped(params, x, t, r) * rate)

    def lagrangian(params):
        end, rate = tangents.along(lambda r: jumped(params, x, t, r), (r,), (jnp.ones_like(r),))
        return jnp.sum(-weight * end * jax.lax.stop_gradient(rate - v(end, r)))

    def ours(params, form):
        u = field_of_mean(student, params)
        if form == "eulerian":
            pair = mean_flow_target(u, x, t, r, v(x, t))
        else:
            pair = flow_map.lagrangian_target(u, x, t, r, v)
        return jnp.sum(normalised_loss(*pair, power=0.0, c=0.0))

    for form, theorem in (("eulerian", eulerian), ("lagrangian", lagrangian)):
        expected = jax.grad(theorem)(params)["shift"]
        assert jnp.max(jnp.abs(expected)) > 0.1
        np.testing.assert_allclose(jax.grad(ours)(params, form)["shift"], expected, rtol=1e-9)


# methods --------------------------------------------------------------------------------------


def methods(teacher, student):
    """Every method on a teacher."""
    mean = functools.partial(mean_flow, student, teacher=teacher)
    own = functools.partial(flow_map.self_distilled_flow_map, student, teacher=teacher)
    align = functools.partial(flow_map.align_your_flow, teacher, student, warmup_updates=0)
    half = flow_map.uniform_pairs(0.5)
    return {
        "mean_flow": mean(),
        "improved": improved_mean_flow(student, teacher=teacher),
        "align_eulerian": align(),
        "align_lagrangian": align(form="lagrangian"),
        "lagrangian": own(pairs=half),
        "eulerian": own(residual=flow_map.eulerian, pairs=half),
        "semigroup": own(residual=flow_map.semigroup(), pairs=half),
    }


def loss_of(method, seed=0, label=None):

    def loss(params, frozen):
        batch = {"image": GAUSSIAN.sample(jax.random.key(seed + 1000), COUNT)}
        if label is not None:
            batch["label"] = label
        context = Context(jnp.asarray(7), {}, {}, frozen)
        key = jax.random.key(seed)
        return method.players["student"].loss(params, context, batch, key)[0]

    return loss


NAMES = list(methods(GAUSSIAN.denoiser, exact(gaussian_map, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_learn_at_the_exact_map(name):
    """With a teacher's field, loss and gradient are 0 for the exact student, not for another; the
    teacher gets no gradient.
    """
    method = methods(GAUSSIAN.denoiser, exact(gaussian_map, 2))[name]
    both = jax.jit(jax.value_and_grad(loss_of(method), argnums=(0, 1)))
    loss, (gradient, _) = both({"shift": jnp.zeros(2)}, method.frozen)
    assert loss < 1e-16
    np.testing.assert_allclose(gradient["shift"], 0.0, atol=1e-5)
    _, (off, frozen) = both({"shift": jnp.array([0.05, 0.0])}, method.frozen)
    assert abs(off["shift"][0]) > 1e-3
    assert len(jax.tree.leaves(frozen)) >= 2
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(frozen))


@pytest.mark.parametrize("name", ["mean_flow", "improved", "lagrangian", "eulerian", "semigroup"])
def test_the_exact_map_is_stationary_without_a_teacher(name):
    """With eps - x0 as field the mean gradient of least squares at the exact map is 0 within four
    standard errors, and a shifted student's is not.
    """
    student = exact(gaussian_map, 2)._replace(low=0.5)  # the gradient's tail goes as 1/t^2
    pairs = flow_map.uniform_pairs(0.5)
    free = functools.partial(flow_map.self_distilled_flow_map, student, pairs=pairs)
    method = {
        "mean_flow": lambda: mean_flow(student, power=0.0, pairs=pairs),
        "improved": lambda: improved_mean_flow(student, power=0.0, pairs=pairs),
        "lagrangian": free,
        "eulerian": lambda: free(residual=flow_map.eulerian),
        "semigroup": lambda: free(residual=flow_map.semigroup()),
    }[name]()
    slope = jax.jit(jax.grad(loss_of(method)))
    for shift in (0.0, 1.0):  # one per sample, so that the gradient has a row per sample
        at = {"shift": jnp.full((COUNT, 2), shift)}
        rows = np.asarray(slope(at, {})["shift"]) * COUNT
        standard_errors = rows.mean(0) / (rows.std(0) / np.sqrt(COUNT))
        assert (np.abs(standard_errors) < 4).all() if shift == 0 else (standard_errors > 6).all()


# guidance -------------------------------------------------------------------------------------


def test_the_guided_field_is_a_fixed_point(rng):
    """A student that says the field guided by w = omega/(1 - kappa) is its own target."""
    conditional, null = jnp.asarray(rng.normal(size=(2, 3, 2)))
    for omega, kappa in ((2.0, 0.0), (1.0, 0.5), (0.5, 0.6)):
        w = omega / (1.0 - kappa)
        guided = null + w * (conditional - null)
        target = guided_field(conditional, guided, null, omega, kappa)
        np.testing.assert_allclose(target, guided, rtol=1e-12)


def half(y, s, cond=None):
    """A teacher for whom class k is the point (1 + k)/2, and no class (2) the point 0."""
    if cond is None:
        return jnp.zeros_like(y)
    point = jnp.where(cond == 2, 0.0, 0.5 + 0.5 * cond.astype(y.dtype))
    return jnp.zeros_like(y) + point[:, None]


@as_field
def classed(y, s, r, cond):
    """The points of :func:`half` guided with weight 2."""
    value = 0.0 if cond is None else jnp.where(cond == 2, 0.0, 1.0 + cond.astype(y.dtype))[:, None]
    return jnp.zeros_like(y) + value


def test_guidance_is_for_labelled_samples_only():
    """The student that says the guided field is at rest; where the label is dropped, the field is
    the plain one.
    """
    student = exact(classed, 2, classes=2)._replace(label_drop=1e-12)
    labels = jnp.arange(COUNT, dtype=jnp.int32) % 3
    method = mean_flow(student, teacher=half, kappa=0.5, power=0.0)
    at = {"shift": jnp.zeros(2)}
    loss = loss_of(method, label=labels)
    assert loss(at, method.frozen) < 1e-16
    assert loss({"shift": jnp.ones(2)}, method.frozen) > 1e-3
    with pytest.raises(ValueError, match="labels"):
        loss_of(method)(at, method.frozen)


def recorded(params, x, label, cond=None, *, key=None):
    """The points of :func:`half`, guided by the weight and within the interval that is its
    label."""
    t, _, kappa, a, b = label.T
    w = jnp.where((a <= t) & (t <= b), 1 / (1 - kappa), 1.0)
    point = half(x, t, cond) * w[:, None] + params["shift"].astype(x.dtype)[None]
    return (x - point) / t[:, None]


@pytest.mark.slow
def test_guidance_as_an_input(key):
    """The student conditioned on both is at rest where t = r, and the sampler passes them."""
    t = jnp.linspace(0.05, 0.95, COUNT)
    numbers, kappa = draw_guidance(key, t, 8.0)
    w = 1 / (1 - numbers[:, 0])
    assert (w >= 1).all() and (w <= 8).all() and abs(np.mean(np.log(w)) / np.log(8) - 0.5) < 0.05
    inside = (numbers[:, 1] <= t) & (t <= numbers[:, 2])
    np.testing.assert_array_equal(kappa, np.where(inside, numbers[:, 0], 0.0))
    assert 0.3 < inside.mean() < 0.95

    student, still = exact(recorded, 2, classes=2), logit_normal_pairs(unequal=0.0)
    student = student._replace(label_drop=1e-12)
    method = improved_mean_flow(student, teacher=half, pairs=still, largest=4.0)
    labels = jnp.arange(COUNT, dtype=jnp.int32) % 3
    loss = loss_of(method, label=labels)
    assert loss(student.params, method.frozen) < 1e-16
    assert loss({"shift": jnp.ones(2)}, method.frozen) > 1e-3
    state = init_state(method, key)
    for weight, interval, size in (
        (1.0, (0.0, 1.0), 1.0),
        (3.0, (0.0, 1.0), 3.0),
        (3.0, (0.0, 0.1), 1.0),
    ):
        made = method.sampler(state, num_steps=1, guidance=weight, interval=interval)
        x = made(key, 3, (2,), cond=jnp.array([0, 1, 2], jnp.int32))
        np.testing.assert_allclose(x[:, 0], size * np.array([0.5, 1.0, 0.0]), atol=0.05)
    with pytest.raises(ValueError, match="weights from 1 to 4"):
        method.sampler(state, guidance=0.0)
    with pytest.raises(ValueError, match="weights from 1 to 4"):
        method.sampler(state, guidance=9.0)
    with pytest.raises(ValueError, match="an interval of times is within"):
        method.sampler(state, guidance=2.0, interval=(0.5, 0.2))


# times, tables, arguments ---------------------------------------------------------------------


def test_pairs_of_times(key):
    x0, student = jnp.zeros((COUNT, 2)), exact(gaussian_map, 2)
    logit = logit_normal_pairs
    for pairs, share in (
        (logit(), 0.75),
        (logit((-0.6, 1.6), (-4.0, 1.6), swap=False), 0.7),
        (flow_map.uniform_pairs(), 0.25),
        (flow_map.interval_pairs(), 1.0),
    ):
        t, r = within(student, *pairs(key, x0))
        assert (t >= 0.01 / 1.01 - 1e-12).all() and (t <= 20 / 21).all()
        assert (r <= t).all() and (r >= 0.01 / 1.01 - 1e-12).all()
        assert abs(float(jnp.mean(r < t)) - share) < 0.05
    t, r = logit((-0.6, 1.6), (-4.0, 1.6), unequal=1.0, swap=False)(key, x0)
    assert abs(np.mean(jax.scipy.special.logit(t)) + 0.6) < 0.1
    t, r = flow_map.interval_pairs(-0.8, 1.0)(key, x0)
    assert abs(np.mean(jax.scipy.special.logit(t - r)) + 0.8) < 0.1 and (t <= 1).all()


def test_the_label_levels_off():
    """At low levels it is EDM's; its slope in flow time times t - r stays below 1.25."""
    t = jnp.linspace(0.002, 80 / 81, COUNT)
    label = lambda t: saturating(t / (1 - t))  # noqa: E731
    slope = tangents.along(label, (t,), (jnp.ones_like(t),))[1]
    assert jnp.max(t * slope) < 1.25 and (slope > 0).all()
    low = jnp.array([0.01, 0.1, 0.5])
    np.testing.assert_allclose(saturating(low), jnp.log(low) / 4, atol=0.03)
    assert np.isfinite(saturating(jnp.zeros(1))).all()


def test_jumps_of_an_exact_student_are_the_flow():
    student = exact(gaussian_map, 2)
    method = methods(GAUSSIAN.denoiser, student)["mean_flow"]
    tables = flow_map_tables(student)
    start = 20.0 * jax.random.normal(jax.random.key(0), (4, 2), jnp.float64)
    D = student.denoiser(student.params)
    for steps in (1, 2, 4):
        made = tables(steps)
        assert made.nfe == steps
        np.testing.assert_allclose(
            sample(D, made, start), GAUSSIAN.flow(start, 20.0, 0.01), atol=1e-12
        )
    assert tables(2, gamma=0.5).stochastic and method.frozen["teacher"] is not None
    assert tables(1, levels=[3.0, 0.0]).levels[0] == 3.0
    with pytest.raises(ValueError, match="at least 1"):
        tables(0)


def test_wrong_arguments_say_what_is_right():
    student = exact(gaussian_map, 2)
    with pytest.raises(ValueError, match="eulerian"):
        flow_map.align_your_flow(GAUSSIAN.denoiser, student, form="upwind")
    with pytest.raises(ValueError, match="classes"):
        mean_flow(student, omega=2.0)
    with pytest.raises(ValueError, match="kappa"):
        mean_flow(student._replace(classes=3, label_drop=0.1), kappa=1.0)
    with pytest.raises(ValueError, match="never learnt"):
        mean_flow(student._replace(classes=3), kappa=0.5)
    with pytest.raises(ValueError, match="classes"):
        improved_mean_flow(student, largest=8.0)


# golden numbers -------------------------------------------------------------------------------


def cases(peer, keep=lambda case: True):
    found = [c for c in CASES if peer in c["peer"] and keep(c)]
    assert found
    return [pytest.param(c, id=c["id"]) for c in found]


def toy(params, x, label, cond=None, *, key=None):
    """The golden network; its labels are t and t - r."""
    flat, t = x.reshape(x.shape[0], -1), label[:, :1]
    recorded = t * params["u"][None] + (t - label[:, 1:]) * params["u2"][None]
    hidden = jnp.tanh(flat @ params["W1"].T + params["b1"][None] + recorded)
    return (hidden @ params["W2"].T + params["b2"][None]).reshape(x.shape)


def tree(numbers, case, prefix):
    names = ("W1", "b1", "u", "u2", "W2", "b2")
    return {k: jnp.asarray(numbers.get(case, f"{prefix}:{k}")) for k in names}


def golden_mean_flow(numbers, case, params):
    """Loss per sample, and the tangent, of a golden case."""
    x0, noise, t, r = (jnp.asarray(numbers.get(case, k)) for k in ("real_data", "noise", "t", "r"))
    x = expand(1 - t, x0) * x0 + expand(t, x0) * noise
    student = Student(toy, params, prediction="flow", process=FLOW)
    u = field_of_mean(student)
    field = noise - x0
    if case["use_cd"]:
        frozen = student._replace(params=tree(numbers, case, "teacher"))
        field = field_of_mean(frozen)(x, t, t)
    share = tangents.warmup(jnp.asarray(case["iteration"]), case["tangent_warmup_steps"])
    value, target = mean_flow_target(u, x, t, r, field, share=share.astype(x.dtype))
    power, c = float(case["norm_method"].removeprefix("poly_")), case["norm_const"]
    if case["loss_type"] == "l2":
        return adaptive_loss(value, target, power, c), target
    each = case["tangent_spatial_invariance"]
    scale = x0[0].size ** 0.5 if each else 1.0
    loss = normalised_loss(value, target, power, c, per_number=each)
    return loss, (target - value) / scale


@pytest.mark.parametrize("case", cases("MeanFlowModel._compute_mf_loss"))
def test_golden_mean_flow(case):
    numbers = load("losses_fastgen")
    mean = lambda p: (jnp.mean(golden_mean_flow(numbers, case, p)[0]), None)  # noqa: E731
    loss, tangent = golden_mean_flow(numbers, case, tree(numbers, case, "student"))
    rough = case["use_jvp_finite_diff"]  # the peer's derivative is a finite difference there
    close = {"rtol": 1e-2, "atol": 1e-3} if rough else {"rtol": 2e-6, "atol": 1e-9}
    np.testing.assert_allclose(tangent, numbers.get(case, "tangent"), **close)
    np.testing.assert_allclose(loss, numbers.get(case, "loss"), **close)
    gradient = jax.grad(mean, has_aux=True)(tree(numbers, case, "student"))[0]
    for name, found in gradient.items():
        np.testing.assert_allclose(found, numbers.get(case, f"grad:{name}"), **close)


@pytest.mark.parametrize("case", cases("MeanFlowModel._student_sample_loop"))
def test_golden_sampling(case):
    """Jumps are the peer's "ode", jumps to 0 and noise up again its "sde"."""
    numbers, times = load("losses_fastgen"), case["t_list"]
    params = tree(numbers, case, "student")
    D = denoiser(toy, params, prediction="flow", process=FLOW)
    student = Student(toy, params, prediction="flow", process=FLOW)
    levels = [t / (1 - t) for t in times]
    made = flow_map_tables(student)(1, levels, float(case["type"] == "sde"))
    start = jnp.asarray(numbers.get(case, "x")) / (1 - times[0])
    noise = numbers.get(case, "noise") if made.stochastic and len(levels) > 2 else None
    out = sample(D, made, start, noise=noise)
    np.testing.assert_allclose(out, numbers.get(case, "out"), rtol=1e-9, atol=1e-10)
