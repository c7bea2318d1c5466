"""Consistency models beyond the first ones: improved, continuous-time, truncated, latent and
multistep, on closed forms and against golden values.
"""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.golden_numbers import load

from jaxdiff import denoisers, grids, solvers
from jaxdiff.arrays import expand
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import predictor
from jaxdiff.distance import pseudo_huber, squared
from jaxdiff.distill.consistency import continuous
from jaxdiff.distill.consistency.consistency import (
    consistency_distillation,
    consistency_loss,
    easy_consistency,
    easy_pair,
)
from jaxdiff.distill.consistency.improved import (
    improved_consistency,
    improved_scales,
    log_normal_neighbours,
)
from jaxdiff.distill.consistency.latent import latent_consistency, skipping_levels
from jaxdiff.distill.consistency.multistep import (
    Triple,
    intervals,
    multistep_consistency,
    segment_levels,
    segment_target,
)
from jaxdiff.distill.consistency.schedules import (
    ect_level,
    inverse_gap,
    inverse_level,
    inverse_output,
    inverse_root_gap,
    mapped_level,
)
from jaxdiff.distill.consistency.truncated import (
    handed_over,
    student_t_levels,
    truncated_consistency,
    truncated_stages,
)
from jaxdiff.distill.parts.levels import karras_level
from jaxdiff.distill.parts.primitives import implied, jump, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import warmup
from jaxdiff.distill.parts.teacher import rollout
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.method import Context
from jaxdiff.process import EDM, TrigFlow
from jaxdiff.sampling.direct import direct
from jaxdiff.solvers.adjusted_ddim import adjusted_ddim, adjusted_ddim_step, data_variance
from jaxdiff.solvers.steps import heun_step
from jaxdiff.typing import Outputs

CASES = load("losses_fastgen").cases
LOW, HIGH = 0.01, 20.0
WEIGHTS = {
    "default": inverse_gap,
    "c_out": inverse_output(0.5),
    "c_out_sq": inverse_output(0.5, 2.0),
    "sigma_sq": inverse_level,
    "sqrt": inverse_root_gap,
    "one": lambda t, r: jnp.ones_like(t),
}


def cases(peer):
    found = [c for c in CASES if peer in c["peer"]]
    assert found
    return [pytest.param(c, id=c["id"]) for c in found]


def tree(numbers, case, prefix):
    names = ("W1", "b1", "u", "u2", "W2", "b2", "lv")
    return {k: jnp.asarray(numbers.get(case, f"{prefix}:{k}")) for k in names}


def toy(params, x, s):
    """The golden toy denoiser: the network itself, of the scaled input."""
    flat = (x / jnp.sqrt(1 + expand(s, x) ** 2)).reshape(x.shape[0], -1)
    recorded = (jnp.log(jnp.maximum(s, 1e-12)) / 4)[:, None] * params["u"][None]
    hidden = jnp.tanh(flat @ params["W1"].T + params["b1"][None] + recorded)
    return (hidden @ params["W2"].T + params["b2"][None]).reshape(x.shape)


def check_gradient(numbers, case, gradient, rtol=1e-7):
    for name, value in gradient.items():
        if f"{case['id']}/grad:{name}" in numbers:
            expected = numbers.get(case, f"grad:{name}")
            np.testing.assert_allclose(value, expected, rtol, rtol * np.abs(expected).max())


@pytest.mark.parametrize("case", cases("t_to_r_sigmoid"))
def test_golden_mapping(case):
    numbers = load("losses_fastgen")
    r = mapped_level(jnp.asarray(numbers.get(case, "t")), 1 - case["ratio"])
    np.testing.assert_allclose(
        jnp.maximum(r, case["min_r"]), numbers.get(case, "r"), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("case", cases("_compute_cm_loss"))
def test_golden_easy_consistency_with_weights_and_teacher(case):
    numbers = load("losses_fastgen")
    x0, eps, t = (jnp.asarray(numbers.get(case, k)) for k in ("real_data", "eps", "t"))
    r = jnp.maximum(mapped_level(t, 1 - case["ratio"]), case["min_r"])
    np.testing.assert_allclose(r, numbers.get(case, "r"), rtol=1e-9)
    known = tree(numbers, case, "teacher") if case["use_cd"] else None
    pair = easy_pair(known and (lambda y, s: toy(known, y, s)), x0, t, r, eps)

    def loss(params):
        f = lambda y, s: toy(params, y, s)  # noqa: E731
        weight = WEIGHTS[case["weighting"]](t, r)
        each = consistency_loss(f, f, pair, pseudo_huber(case["huber_const"]), weight)
        return jnp.mean(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(numbers, case, "student"))
    np.testing.assert_allclose(each, numbers.get(case, "loss"), rtol=1e-7)
    check_gradient(numbers, case, gradient)


@pytest.mark.parametrize("case", cases("_compute_scm_loss"))
def test_golden_simplified_consistency(case):
    """Values, tangents and gradients; the peer's finite differences only to their own accuracy.

    With a teacher the peer takes them along dx/dt of the data, not of the teacher: there only they
    are compared.
    """
    numbers, sd = load("losses_fastgen"), case["sigma_data"]
    x0, noise, level = (jnp.asarray(numbers.get(case, k)) for k in ("real_data", "noise", "t"))
    t = jnp.arctan2(level, sd)
    np.testing.assert_allclose(t, numbers.get(case, "t_hat"), rtol=1e-12)
    y = perturb(x0, level, noise)
    x = expand(jnp.cos(t), y) * y

    def field(params, x, t):
        x0 = toy(params, x / expand(jnp.cos(t), x), sd * jnp.tan(t))
        return continuous.trig_rate(x, t, x0, sd) / sd

    dx = of_data = continuous.trig_rate(x, t, x0, sd)
    if case["use_cd"]:
        dx = sd * field(tree(numbers, case, "teacher"), x, t)
    warm = warmup(jnp.asarray(case["iteration"]), case["tangent_warmup_steps"]).astype(float)
    rough = case["use_jvp_finite_diff"]
    rtol = 1e-5 if rough else 1e-6

    def loss(params):
        F = lambda x, t: field(params, x, t)  # noqa: E731
        error = continuous.scm_error(
            F, x, t, dx, warm=warm, c=case["tangent_warmup_const"],
            per_number=case["g_norm_spatial_invariance"], sigma_data=sd,
        )  # fmt: skip
        weight = 1 / level if case["prior_weighting_enabled"] else jnp.ones_like(level)
        weight = weight / (x0[0].size if case["divide_x_0_spatial_dim"] else 1)
        log_variance = params["lv"][0] * jnp.log(level) / 4 + params["lv"][1]
        return jnp.mean(continuous.adaptive_weight(error, weight, log_variance)), error

    params = tree(numbers, case, "student")
    c_noise = jnp.log(level) / 4
    expected = numbers.get(case, "logvar").reshape(-1)
    np.testing.assert_allclose(params["lv"][0] * c_noise + params["lv"][1], expected, rtol=1e-9)
    np.testing.assert_allclose(field(params, x, t), numbers.get(case, "F_theta"), rtol=1e-7)
    scale = jnp.cos(t) * jnp.sin(t)
    way = (expand(scale, x) * (of_data if rough else dx), scale)
    rate = jax.jvp(lambda x, t: field(params, x, t), (x, t), way)[1]
    published = numbers.get(case, "F_theta_jvp")
    np.testing.assert_allclose(rate, published, rtol, rtol * np.abs(published).max())
    if rough and case["use_cd"]:
        return
    gradient, error = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(error, numbers.get(case, "loss_unweighted"), rtol=rtol)
    check_gradient(numbers, case, gradient, rtol)


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))


def points(gaussian, levels):
    """States that are where data at these levels are."""
    random = np.random.default_rng(0)
    levels = jnp.asarray(levels)
    spread = jnp.sqrt(gaussian.variances[None] + levels[:, None] ** 2)
    return gaussian.mean[None] + jnp.asarray(random.normal(size=(len(levels), 2))) * spread, levels


class Exact:
    """A network that is the exact map to level ``end`` plus a shift, which is 0 where it is right.

    Its process is EDM and its prediction the data, so that its label is the level itself.
    """

    def __init__(self, flow):
        self.flow = flow

    def __call__(self, params, x, label, cond=None, *, full=False, key=None):
        level = label if label.ndim == 1 else label[:, 0]
        value = self.flow(x, level, label) + params["shift"]
        head = params["log_variance"] + 0.0 * level
        return Outputs(value, head, (x,)) if full else value


def exact_student(flow, **options):
    params = {"shift": jnp.zeros(()), "log_variance": jnp.zeros(())}
    return Student(
        Exact(flow), params, prediction="x0", process=EDM(), low=LOW, high=HIGH, **options
    )


def to_data(gaussian, end=0.0):
    return lambda y, s, label: gaussian.flow(y, s, end)


def to_level(gaussian, end):
    """The denoised output whose Euler step to ``end``, as students with that boundary take, ends
    where the flow does.
    """

    def answer(y, s, label):
        above = jnp.maximum(s, 1.001 * end)
        return implied(y, above, gaussian.flow(y, above, end), jnp.full_like(s, end))

    return answer


def batch(gaussian, count=16):
    return {"image": gaussian.sample(jax.random.key(3), count)}


def loss_of(method, data, step=10):
    """A method's loss as a function of its parameters and of all that it holds fixed."""

    def loss(params, frozen, ema):
        context = Context(jnp.asarray(step, jnp.int32), {}, {"student": ema}, frozen)
        return method.players["student"].loss(params, context, data, jax.random.key(1))[0]

    params = method.init(jax.random.key(0))["student"]
    return loss, (params, method.frozen, {"target": params})


def value(method, data):
    loss, where = loss_of(method, data)
    return float(loss(*where))


def value_and_gradients(method, data):
    loss, where = loss_of(method, data)
    everything = jax.value_and_grad(loss, argnums=(0, 1, 2), allow_int=True)
    return jax.jit(everything)(*where)


def exact_step(gaussian):
    """A solver step that is the exact flow; what it is given for a denoiser it ignores."""
    return lambda D, y, s, r: gaussian.flow(y, s.reshape(-1), r.reshape(-1))


def is_zero(tree):
    numbers = [g for g in jax.tree.leaves(tree) if g.dtype != jax.dtypes.float0]
    return bool(numbers) and not any(np.asarray(g).any() for g in numbers)


@pytest.mark.slow
def test_exact_students_have_no_loss(gaussian):
    """Distillation with an exact teacher leaves the exact map alone; what is frozen gets no
    gradient. With solver steps in place of the flow the loss is of the order of their error.
    """
    D, plain, step = gaussian.denoiser, exact_student(to_data(gaussian)), exact_step(gaussian)
    low = exact_student(to_level(gaussian, LOW))
    ends = grids.karras(4, LOW, HIGH, zero=False)[:-1]
    borders = jnp.asarray([*ends[1:], 0.0])

    def segmented(y, s, label):
        index = jnp.clip(jnp.searchsorted(-jnp.asarray(ends), -s + 1e-9) - 1, 0, len(ends) - 1)
        end = borders[index]
        return implied(y, s, gaussian.flow(y, s, end), end)

    several, first = exact_student(segmented), plain.denoiser(plain.params)
    grid = grids.karras(60, LOW, HIGH, zero=False)
    once, even = {"solver_step": step}, {"weight": lambda t, r: jnp.ones_like(t), "gap": 0.1}
    latent = latent_consistency(D, low, levels=grid, **once)
    parts = multistep_consistency(D, several, segments=4, first=16, last=32, **once)
    methods = {
        "easy": (easy_consistency(plain, teacher=D, stage_updates=5, c=0.1, **once), 1e-12),
        "scd": (continuous.scd(D, plain, warmup_updates=5, learned_weight=False), 1e-20),
        "continuous": (continuous.continuous_distillation(D, low), 1e-20),
        "latent": (latent, 1e-9),
        "multistep": (parts, 1e-12),
        "truncated": (truncated_consistency(first, plain, teacher=D, **even), 2e-2),
    }
    for name, (method, bound) in methods.items():
        found, (own, frozen, ema) = value_and_gradients(method, batch(gaussian))
        assert abs(found) < bound, (name, found)
        assert is_zero(frozen) and is_zero(ema), name
        if name != "truncated":  # its teacher's steps are Euler's
            assert abs(own["shift"]) < 1e-6, (name, own)
    loss, (params, *fixed) = loss_of(method, batch(gaussian))
    assert loss(params | {"shift": jnp.asarray(0.1)}, *fixed) > 0.05  # not a constant more


@pytest.mark.slow
def test_training_is_stationary_in_the_mean(gaussian):
    """Data that scatter evenly about the posterior mean: each pair alone moves the student, both
    together do not, up to the gap between the levels.
    """
    y, t = points(gaussian, np.geomspace(0.05, 5.0, 8))
    aside = jnp.asarray(np.random.default_rng(1).normal(size=y.shape)) * 0.3
    f = lambda shift: lambda y, s: gaussian.flow(y, s, 0.0) + shift  # noqa: E731

    def pull(offset, gap):
        x0 = gaussian.denoiser(y, t) + offset
        pair = easy_pair(None, x0, t, (1 - gap) * t, (y - x0) / t[:, None])
        weight, flat = inverse_gap(pair.t, pair.r), pseudo_huber(100.0)
        return jax.grad(lambda b: jnp.mean(consistency_loss(f(b), f(0.0), pair, flat, weight)))(0.0)

    one, both = pull(aside, 1e-4), pull(aside, 1e-4) + pull(-aside, 1e-4)
    assert abs(both) < 1e-3 * abs(one)
    angle = jnp.arctan(t / 0.5)
    x = jnp.cos(angle)[:, None] * y
    student = exact_student(to_data(gaussian))
    F = predictor(student.denoiser(student.params), TrigFlow(0.5), "edm")
    total = 0.0
    for offset in (aside, -aside):
        dx = continuous.trig_rate(x, angle, gaussian.denoiser(y, t) + offset)
        scale = jnp.cos(angle) * jnp.sin(angle)
        rate = jax.jvp(lambda x, t: -F(x, t), (x, angle), (scale[:, None] * dx, scale))[1]
        g = continuous.scm_tangent(-F(x, angle), rate, x, angle, dx, 1.0, 0.5)
        assert jnp.max(jnp.abs(g)) > 1e-2
        total = total + g
    np.testing.assert_allclose(total, 0.0, atol=1e-12)


def test_the_simplified_tangent_is_that_of_the_consistency_function(gaussian):
    """g = cos(t) df/dt at full warm-up, for any network; df/dt by finite differences."""
    draw, sizes = np.random.default_rng(2).normal, {"W1": (5, 2), "W2": (2, 5), "b2": 2}
    names = ("W1", "b1", "u", "W2", "b2")
    params = {k: 0.3 * jnp.asarray(draw(size=sizes.get(k, 5))) for k in names}
    D, sd = (lambda y, s: toy(params, y, s)), 0.7
    y, s = points(gaussian, np.geomspace(0.05, 5.0, 6))
    t = jnp.arctan(s / sd)
    x = jnp.cos(t)[:, None] * y

    def F(x, t):
        x0 = D(x / jnp.cos(t)[:, None], sd * jnp.tan(t))
        return continuous.trig_rate(x, t, x0, sd) / sd

    f = lambda x, t: jnp.cos(t)[:, None] * x - sd * jnp.sin(t)[:, None] * F(x, t)  # noqa: E731
    np.testing.assert_allclose(f(x, t), D(y, s), rtol=1e-9)
    dx = continuous.trig_rate(x, t, gaussian.denoiser(y, s), sd)
    h = 1e-5
    slope = (f(x + h * dx, t + h) - f(x - h * dx, t - h)) / (2 * h)
    scale = jnp.cos(t) * jnp.sin(t)
    rate = jax.jvp(F, (x, t), (scale[:, None] * dx, scale))[1]
    finite = scale[:, None] * (F(x + h * dx, t + h) - F(x - h * dx, t - h)) / (2 * h)
    np.testing.assert_allclose(rate, finite, rtol=1e-7, atol=1e-7)
    g = continuous.scm_tangent(F(x, t), rate, x, t, dx, 1.0, sd)
    np.testing.assert_allclose(g, jnp.cos(t)[:, None] * slope, rtol=1e-6, atol=1e-8)
    start = continuous.scm_tangent(F(x, t), rate, x, t, dx, 0.0, sd)
    np.testing.assert_allclose(start, -(jnp.cos(t)[:, None] ** 2) * (sd * F(x, t) - dx))


def test_continuous_time_is_the_limit_of_neighbouring_levels(gaussian):
    """The gradient of the discrete loss over the gap nears the continuous one's."""
    y, t = points(gaussian, np.geomspace(0.1, 5.0, 8))
    slope = (y - gaussian.denoiser(y, t)) / t[:, None]
    f = lambda a: lambda y, s: y * jnp.exp(-a * s)[:, None]  # noqa: E731
    limit = jax.grad(
        lambda a: jnp.sum(continuous.continuous_error(f(a), y, t, (slope, jnp.ones_like(t))))
    )(0.8)
    for gap, close in ((1e-3, 1e-2), (1e-5, 1e-4)):
        pair = easy_pair(None, y - t[:, None] * slope, t, t - gap, slope)
        near = jax.grad(
            lambda a, p=pair, w=1 / gap: jnp.sum(
                consistency_loss(f(a), f(0.8), p, squared, jnp.full_like(t, w))
            )
        )(0.8)
        np.testing.assert_allclose(near, limit, rtol=close)
    free = jax.grad(
        lambda a: jnp.sum(continuous.continuous_error(f(a), y, t, (slope, jnp.ones_like(t)), False))
    )(0.8)
    assert abs(free - limit) > 0.01 * abs(limit)  # the whole gradient is another one


def test_the_learned_weight_settles_at_the_error():
    error, weight = jnp.array([0.3, 2.0]), jnp.array([4.0, 0.5])
    l = jnp.log(error * weight)
    slope = jax.grad(lambda l: jnp.sum(continuous.adaptive_weight(error, weight, l)))(l)
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_improved_schedule_and_levels():
    steps = 800_000 // 2
    scales = [float(improved_scales(jnp.asarray(k), steps)) for k in (0, 49_999, 50_000, 399_999)]
    assert scales == [11.0, 11.0, 21.0, 1281.0]
    assert float(improved_scales(jnp.asarray(5), 3, 10, 10)) == 11.0
    count, low, high, rho = 9, 0.02, 40.0, 7.0
    args = (-1.1, 2.0, low, high, rho)
    t, r = log_normal_neighbours(jax.random.key(0), jnp.zeros(40_000), jnp.asarray(count), *args)
    grid = np.asarray(karras_level(np.arange(count), count, low, high, rho))
    index = np.argmin(np.abs(np.asarray(t)[:, None] - grid), axis=1)
    np.testing.assert_allclose(t, grid[index], rtol=1e-12)
    np.testing.assert_allclose(r, grid[index + 1], rtol=1e-12)
    z = (np.log(grid) + 1.1) / (2.0 * 2**0.5)
    share = np.array([math.erf(a) - math.erf(b) for a, b in zip(z, z[1:], strict=False)])
    share /= share.sum()
    seen = np.bincount(index, minlength=count - 1) / len(t)
    assert (np.abs(seen - share) < 4 * np.sqrt(share / len(t)) + 1e-4).all()


def test_student_t_levels_are_truncated_student_t():
    for df in (0.01, 3.0):
        s = student_t_levels(jax.random.key(0), jnp.zeros(20_000), df, 0.1, 0.2, 0.9, 80.0)
        law = scipy.stats.t(df, 0.1, 0.2)
        ends = law.cdf(np.log([0.9, 80.0]))
        share = (law.cdf(np.log(np.asarray(s))) - ends[0]) / (ends[1] - ends[0])
        assert scipy.stats.kstest(share, "uniform").statistic < 0.012  # 0.0096 at 5 %


def test_truncated_targets_come_from_the_first_stage_below_the_border():
    y, s = jnp.ones((3, 2)), jnp.array([0.5, 1.0, 2.0])
    g = handed_over(lambda y, s: 2 * y, lambda y, s: -y, 1.0)
    np.testing.assert_array_equal(g(y, s)[:, 0], [-1.0, 2.0, 2.0])


def test_truncated_stages(gaussian):
    student = exact_student(to_data(gaussian))
    first, second = truncated_stages(
        lambda before: student if before is None else student._replace(params=before.params),
        share=2.0, easy={"c": 0.1}, border=0.5,
    )  # fmt: skip
    assert (first.name, second.name, second.share) == ("consistency", "truncated", 2.0)
    assert first.method(None).players["student"].ema == {}

    class Before:
        params = student.params

        @staticmethod
        def sampler():
            return type("S", (), {"denoiser": student.denoiser(student.params)})

    method = second.method(Before)
    assert set(method.frozen) == {"first"}
    state = type("State", (), {"params": {"student": student.params}})
    assert min(method.sampler(state, num_steps=4).table.levels[:-1]) >= 0.5


def conditional():
    means = [[-1.0, 0.3], [0.8, -0.5], [0.2, 0.9]]
    weights = [[0.6, 0.1, 0.3], [0.1, 0.8, 0.1]]
    return GaussianMixture(weights, means, [0.05, 0.1, 0.08])


@pytest.mark.slow
def test_latent_students_follow_the_guided_flow_of_their_weight(gaussian):
    """The flow of the guided denoiser, solved finely, has no loss; that of one weight for all
    has.
    """
    mixture = conditional()
    levels, highest = grids.karras(24, 0.05, 5.0, zero=False), 4.0
    labels = jnp.arange(8) % 2

    def follow(recorded):
        def flow(y, s, label):
            D = classifier_free(mixture.denoiser, recorded(label[:, 1] * highest))
            path = jnp.exp(jnp.linspace(0, 1, 49)[:, None] * (jnp.log(0.05) - jnp.log(s))[None])
            return rollout(lambda y, s: D(y, s, labels), y, s[None] * path)[-1]

        return flow

    data = {"image": mixture.sample(jax.random.key(0), 8, labels), "label": labels}
    losses = []
    for recorded in (lambda w: w, lambda w: 2.0 + 0.0 * w):
        student = exact_student(follow(recorded), classes=2)._replace(low=0.05, high=5.0)
        method = latent_consistency(
            mixture.denoiser, student, levels=levels, skip=2, guidance_range=(1.0, highest),
            solver_step=heun_step, distance=squared,
        )  # fmt: skip
        losses.append(value(method, data))
    assert losses[0] < 1e-4 and losses[1] > 10 * losses[0], losses


@pytest.mark.slow
def test_latent_levels_and_sampler(gaussian):
    grid = grids.karras(9, LOW, HIGH, zero=False)
    t, r = skipping_levels(jax.random.key(0), jnp.zeros(200), grid, 3)
    first = np.searchsorted(-grid, -np.asarray(t) - 1e-12)
    np.testing.assert_allclose(r, grid[first + 3])
    assert set(first) == set(range(len(grid) - 3))
    seen = []

    def flow(y, s, label):
        seen.append(np.asarray(label[0]))
        return y

    student = exact_student(flow)
    method = latent_consistency(
        gaussian.denoiser, student, levels=grid, skip=3, guidance_range=(2.0, 8.0)
    )
    state = type("State", (), {"params": {"student": student.params}})
    sampler = method.sampler(state, num_steps=3, guidance=4.0)
    np.testing.assert_allclose(sampler.table.levels, [HIGH, *grid[[3, 6]], 0.0])
    sampler.denoiser(jnp.ones((1, 2)), 3.0)
    np.testing.assert_allclose(seen[-1], [3.0, 0.5])
    bounded = latent_consistency(
        gaussian.denoiser, student, levels=[5.0, 1.0, 0.1], skip=1,
        boundary=lambda D: denoisers.latent_consistency(D, EDM()),
    )  # fmt: skip
    assert np.isfinite(value(bounded, batch(gaussian, 4)))
    assert bounded.sampler(state).denoiser(jnp.ones((1, 2)), 3.0).shape == (1, 2)


def test_segments():
    """Triples are neighbours of the grid, in the segment that ends below them; few intervals per
    segment leave r at its end.
    """
    for each in (1, 4):
        levels = segment_levels(
            jax.random.key(0), jnp.zeros(300), 3, jnp.asarray(each), LOW, HIGH, 7.0
        )
        grid = np.asarray(karras_level(np.arange(3 * each + 1), 3 * each + 1, LOW, HIGH, 7.0))
        grid[-1] = 0.0
        index = np.argmin(np.abs(np.asarray(levels.t)[:, None] - grid), axis=1)
        assert set(index) == set(range(3 * each))
        np.testing.assert_allclose(levels.r, grid[index + 1], rtol=1e-9)
        np.testing.assert_allclose(levels.end, grid[(index // each + 1) * each], rtol=1e-9)
    growth = [float(intervals(jnp.asarray(k), 100, 64, 1280)) for k in (0, 50, 100, 900)]
    assert growth == [64.0, 286.0, 1280.0, 1280.0]


def test_as_many_segments_as_steps_are_the_teacher(gaussian):
    """With one interval per segment the target is what the teacher's step implies: for Euler's its
    own denoised output.
    """
    y, t = points(gaussian, [5.0, 1.0, 0.3])
    levels = Triple(t, 0.5 * t, 0.5 * t)
    D = gaussian.denoiser
    y_r = jump(y, t, levels.r, D(y, t))
    np.testing.assert_allclose(segment_target(D, y, y_r, levels), D(y, t), rtol=1e-9)
    zero = Triple(t, jnp.zeros_like(t), jnp.zeros_like(t))
    out = segment_target(D, y, D(y, t), zero)
    np.testing.assert_allclose(out, D(y, t), rtol=1e-12)


def test_adjusted_ddim(gaussian):
    """Without variance it is Euler's method; with it the step has the mean square that the true
    y_r = x0 + r eps has, over the data that y may come from.
    """
    levels = [20.0, 3.0, 0.4, 0.0]
    start, _ = points(gaussian, np.full(5, 20.0))
    D = jax.jit(gaussian.denoiser)
    plain = direct(D, solvers.euler, levels, start)
    same = direct(D, adjusted_ddim, levels, start, variance=lambda s: 0.0 * s)
    np.testing.assert_allclose(same, plain, rtol=1e-10, atol=1e-10)
    other = direct(D, adjusted_ddim, levels, start)
    assert np.abs(other - plain).max() > 1e-2
    alone = direct(D, adjusted_ddim, levels, start[:1])
    np.testing.assert_allclose(alone, other[:1], rtol=1e-10)
    s, r, v = 0.9, 0.4, 0.1 / (2 + 0.9**-2)
    np.testing.assert_allclose(data_variance(s), v)
    y, _ = points(gaussian, np.full(4, s))
    stepped = adjusted_ddim_step(lambda y, s: D(y, s), y, s, r)
    eps = (y - D(y, s)) / s
    length = jnp.mean(((stepped - D(y, s)) / eps) ** 2 * eps**2, axis=1)
    np.testing.assert_allclose(length, r**2 * jnp.mean(eps**2, 1) + (1 - r / s) ** 2 * v)
    # the true y_r is Euler's plus (1 - r/s)(x0 - D): the variance it has more
    x0 = D(y, s)[:, None] + jnp.array([-1.0, 1.0])[None, :, None] * v**0.5
    true = x0 + r * (y[:, None] - x0) / s
    euler = D(y, s) + r * eps
    more = jnp.mean(true**2, axis=(1, 2)) - jnp.mean(euler**2, axis=1)
    np.testing.assert_allclose(more, (1 - r / s) ** 2 * v, rtol=1e-9)


@pytest.mark.slow
def test_wrong_arguments_are_refused(gaussian):
    D, student = gaussian.denoiser, exact_student(to_data(gaussian))
    with pytest.raises(ValueError, match="held=True"):
        continuous.continuous_training(student, held=False)

    def headless(params, x, label, cond=None, *, full=False, key=None):
        return Outputs(x, None, ()) if full else x

    method = continuous.scd(D, student._replace(network=headless))
    with pytest.raises(ValueError, match="log_variance=True"):
        value(method, batch(gaussian, 2))
    with pytest.raises(ValueError, match="border"):
        truncated_consistency(D, student, border=100.0)
    with pytest.raises(ValueError, match="skip"):
        latent_consistency(D, student, levels=[3.0, 1.0], skip=2)
    with pytest.raises(ValueError, match="segments"):
        multistep_consistency(D, student, segments=8, first=4)
    with pytest.raises(ValueError, match="first <= last"):
        improved_consistency(student, num_updates=10, first=20, last=10)


def test_levels_of_easy_tuning_never_meet():
    """Late stages in 32-bit floats: the gap stops shrinking before rounding closes it."""
    t = jnp.asarray(np.geomspace(1e-3, 80.0, 50), jnp.float32)
    for stage in (0, 5, 40, 400):
        r = ect_level(t, jnp.asarray(stage), least=1e-4)
        assert r.dtype == jnp.float32 and (r < t).all()
    assert (ect_level(t, jnp.asarray(40)) == t).any()  # what the least gap prevents


def test_a_truncated_student_leaves_low_levels_to_the_first_stage(gaussian):
    first = lambda y, s, cond=None, **_: 0.0 * y  # noqa: E731
    student = exact_student(lambda y, s, label: jnp.ones_like(y))
    method = truncated_consistency(first, student, border=1.0, intermediate=(0.5,))
    state = SimpleNamespace(params={"student": student.params})
    D = method.sampler(state, num_steps=2).denoiser
    y = jnp.ones((2, 2))
    np.testing.assert_allclose(D(y, jnp.asarray(2.0)), 1.0)
    np.testing.assert_allclose(D(y, jnp.asarray([0.5, 1.0])), [[0.0, 0.0], [1.0, 1.0]])
    above = truncated_consistency(first, student, border=1.0)  # evaluates it above alone
    np.testing.assert_allclose(above.sampler(state).denoiser(y, jnp.asarray(0.5)), 1.0)


def test_a_constant_is_no_consistency_model(gaussian):
    """Students end trajectories at their lowest level whatever they predict: the constant, which
    agrees with itself everywhere, is not the map that is the identity there.
    """
    for prediction in ("x0", "v", "eps"):
        constant = lambda params, x, label, cond=None, **_: jnp.zeros_like(x)  # noqa: E731
        student = exact_student(None)._replace(network=constant, prediction=prediction)
        D = jax.jit(student.denoiser(student.params, LOW))
        y = jnp.asarray([[0.3, -2.0]])
        np.testing.assert_allclose(D(y, jnp.asarray(LOW)), y, rtol=1e-12)
        np.testing.assert_allclose(
            student.denoiser(student.params)(y, jnp.asarray(3.0)), D(y, jnp.asarray(3.0)),
            atol=2 * LOW,
        )  # fmt: skip
    method = consistency_distillation(
        gaussian.denoiser, exact_student(lambda y, s, label: jnp.zeros_like(y))
    )
    assert value(method, batch(gaussian)) > 1e-6
