"""Distribution matching against closed forms: a Gaussian student of a Gaussian teacher has the
gradients of divergences that can be written down.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gaussian_players import (
    COUNT,
    KEY,
    LEVEL,
    MEAN,
    START,
    STD,
    TEACHER,
    THETA,
    check,
    fake,
    fixed,
    generator,
    gradient,
    kl,
    noisy,
)

from jaxdiff import solvers
from jaxdiff.conditioning.correction import discriminator_guidance
from jaxdiff.distill.adversarial.denoising_gan import neighbours
from jaxdiff.distill.adversarial.discriminator import discriminator
from jaxdiff.distill.parts.two_players import FakeScore
from jaxdiff.distill.score.diff_instruct import diff_instruct
from jaxdiff.distill.score.f_distill import DIVERGENCES, bin_means, bin_of, divergence_weight, ratio
from jaxdiff.distill.score.moment_matching import ancestral_step, moment_matching
from jaxdiff.distill.score.score_distillation import (
    score_distillation,
    variance,
    variational_score_distillation,
)
from jaxdiff.distill.score.score_identity import identity_loss
from jaxdiff.distill.score.score_implicit import huber_slope, sim, squared_slope
from jaxdiff.distill.trajectory.progressive import cosine_levels
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.step import init_state

IMAGE = {"image": np.zeros((COUNT, 1))}


def fisher(theta, points=None):
    """E |D_q - D_p|^2, s^4 times the Fisher divergence, over noisy samples: of the student, or held
    fixed at ``points``, a student of its own.
    """
    m, v, mu, w = noisy(theta)
    at, spread = (m, v) if points is None else noisy(points)[:2]
    slope, shift = 1 / w - 1 / v, (at - mu) / w - (at - m) / v
    return LEVEL**4 * (spread * slope**2 + shift**2)


def test_diff_instruct_descends_the_divergence():
    method = diff_instruct(
        TEACHER.denoiser, generator(), fake_score=FakeScore(fake()), start=START, levels=fixed,
        weight=lambda s: s**-2,
    )  # fmt: skip
    check(gradient(method, IMAGE), jax.grad(kl)(THETA))


def implicit(slope):
    """The gradient of score implicit matching with the derivative of a distance."""
    method = sim(
        TEACHER.denoiser, generator(), fake_score=FakeScore(fake()), slope=slope, start=START,
        levels=fixed,
    )  # fmt: skip
    return gradient(method, IMAGE)


def test_score_implicit_matching_is_the_gradient_of_the_fisher_divergence():
    """At fixed points; and the naive form, which holds the fake score still, is not: its sign is
    wrong.
    """
    check(implicit(squared_slope), jax.grad(fisher)(THETA, THETA))

    z, eps = jax.random.normal(KEY, (2, COUNT, 1))
    narrow = {"mean": jnp.asarray(MEAN), "std": jnp.asarray(0.3)}
    D = fake().denoiser(narrow)

    def naive(theta):
        y = theta["mean"] + theta["std"] * z + LEVEL * eps
        return jnp.mean(jnp.square(D(y, LEVEL) - TEACHER.denoiser(y, LEVEL)))

    wrong, right = jax.jit(jax.grad(naive))(narrow)["std"], jax.grad(fisher)(narrow, narrow)["std"]
    assert right < -0.05 and wrong > 0.01  # it makes samples that are too narrow narrower still


def test_any_distance_of_scores_has_its_own_gradient():
    """Pseudo-Huber's, against the derivative of its mean by quadrature over the noisy samples."""
    c = 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def mean_distance(theta):
        m, v, mu, w = noisy(theta)
        y = noisy(THETA)[0] + jnp.sqrt(noisy(THETA)[1]) * nodes
        apart = LEVEL**2 * ((m - y) / v - (mu - y) / w)
        return jnp.sum(weights * jnp.sqrt(apart**2 + c**2)) / np.sqrt(2 * np.pi)

    check(implicit(huber_slope(c)), jax.grad(mean_distance)(THETA))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_score_identity_is_half_the_fisher_divergence(alpha):
    """Of all its gradient with a = 1/2, at fixed points with a = 1."""
    z, eps = jax.random.normal(KEY, (2, COUNT, 1))
    D = fake().denoiser(THETA)

    def loss(theta):
        x = theta["mean"] + theta["std"] * z
        y = x + LEVEL * eps
        values = identity_loss(TEACHER.denoiser(y, LEVEL), D(y, LEVEL), x, alpha, jnp.ones(COUNT))
        return jnp.mean(values)

    half = lambda theta: 0.5 * fisher(theta, None if alpha == 0.5 else THETA)  # noqa: E731
    check(jax.jit(jax.grad(loss))(THETA), jax.grad(half)(THETA))


def test_score_identity_by_hand():
    """A sum over the numbers of a sample: 0.5 (1 (1 - 1) - 2 (1 + 2)) = -3."""
    teacher, made, x = (jnp.asarray([pair]) for pair in ([1.0, 2.0], [0.0, 4.0], [0.0, 1.0]))
    assert identity_loss(teacher, made, x, 1.0, jnp.asarray([0.5])) == -3.0


def f_of(name):
    """The generator f of each divergence E_q f(p/q)."""
    log = jnp.log
    return {
        "reverse-kl": lambda r: -log(r),
        "kl": lambda r: r * log(r),
        "jensen-shannon": lambda r: r * log(r) - (r + 1) * log((r + 1) / 2),
        "softened-reverse-kl": lambda r: (r + 1) * log((r + 1) / (2 * r)),
        "hellinger": lambda r: -4 * jnp.sqrt(r),
        "jeffreys": lambda r: (r - 1) * log(r),
        "neyman": lambda r: (1 - r) ** 2 / (2 * r),
    }[name]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weights_of_divergences(name):
    """h(r) = f''(r) r^2, and with it the score difference is the gradient of E_q f(p/q)."""
    r = jnp.geomspace(0.05, 20.0, 30)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(f_of(name)))))(r) * r**2
    np.testing.assert_allclose(DIVERGENCES[name](r), second, rtol=1e-9)
    np.testing.assert_allclose(jnp.mean(divergence_weight(name, r)), 1.0, rtol=1e-5)

    y = jnp.linspace(-22.0, 22.0, 9001)
    gap = y[1] - y[0]
    density = lambda y, m, v: jnp.exp(-0.5 * (y - m) ** 2 / v) / jnp.sqrt(2 * jnp.pi * v)  # noqa: E731

    def divergence(theta):
        m, v, mu, w = noisy(theta)
        q = density(y, m, v)
        return gap * jnp.sum(q * f_of(name)(density(y, mu, w) / q))

    def moved(theta):
        """-E h (s_p - s_q) dy/dtheta, y = m + sqrt(v) n of one standard normal n."""
        m, v, mu, w = noisy(THETA)
        q, p = density(y, m, v), density(y, mu, w)
        away = DIVERGENCES[name](p / q) * ((mu - y) / w - (m - y) / v)
        m_new, v_new, _, _ = noisy(theta)
        points = m_new + jnp.sqrt(v_new) * (y - m) / jnp.sqrt(v)
        return -gap * jnp.sum(q * away * points)

    slope = lambda f: jax.jit(jax.grad(f))(THETA)  # noqa: E731
    check(slope(moved), slope(divergence), rtol=1e-4)


def test_the_running_mean_of_ratios_is_gradient_descent():
    """Bins with samples move by the rate towards their mean, empty ones stay."""
    s = jnp.asarray([0.01, 0.012, 5.0])
    index = bin_of(s, 0.002, 80.0, 4)
    np.testing.assert_array_equal(index, [0, 0, 2])
    r = jnp.asarray([1.0, 3.0, 0.5])
    np.testing.assert_allclose(bin_means(r, index, jnp.ones(4)), [2.0, 1.0, 0.5, 1.0])
    logits = jnp.asarray([[0.0, 2.0], [50.0, 50.0], [-50.0, -50.0]])
    np.testing.assert_allclose(ratio(logits), [np.e, 20.0, 0.1])


def test_levels_beyond_the_student_count_to_the_bins_at_its_ends():
    np.testing.assert_array_equal(bin_of(jnp.asarray([1e-4, 500.0]), 0.002, 80.0, 4), [0, 3])


def test_an_ancestral_step_is_a_draw_of_the_posterior(rng):
    """The precisions of y_s given x, and of y_t given y_s, add."""
    count = 100_000
    y, x = jnp.full((count, 1), 1.3), jnp.full((count, 1), 0.4)
    t, s = jnp.full(count, 2.0), jnp.full(count, 0.5)
    found = ancestral_step(y, t, s, x, jnp.asarray(rng.normal(size=(count, 1))))
    variance = 1 / (1 / 0.25 + 1 / (4 - 0.25))
    mean = variance * (0.4 / 0.25 + 1.3 / (4 - 0.25))
    np.testing.assert_allclose([found.mean(), found.var()], [mean, variance], rtol=0.01)


LOW, HIGH, STEPS = 0.01, 20.0, 4
DATA = {"mean": jnp.asarray(MEAN), "std": jnp.asarray(STD)}


def moments():
    """The student and the auxiliary denoiser both start as the teacher."""
    own = fake()._replace(params=DATA, low=LOW, high=HIGH)
    return moment_matching(TEACHER.denoiser, own, fake_score=FakeScore(own), num_steps=STEPS)


def data(rng, count):
    return {"image": MEAN + STD * jnp.asarray(rng.normal(size=(count, 1)))}


def test_moment_matching_leaves_the_student_where_the_auxiliary_is_the_teacher(rng):
    found = gradient(moments(), data(rng, 64))
    assert max(abs(g) for g in jax.tree.leaves(found)) < 1e-12


def test_moment_matching_draws_the_auxiliary_to_the_mean_of_the_samples(rng):
    """Its gradient, where it is the teacher, is that of |x - D_aux(y_s)|^2 alone.

    With x = a y_t, y_s = c y_t + noise and D_aux = b y_s, all less the mean, it is in the deviation
    2 w (b E y_s^2 - E x y_s) db/dstd: not 0, as b y_s is the mean of data, and the teacher's
    outputs x have less variance than those. In the mean it is 0.
    """
    u, gap = np.meshgrid((np.arange(400) + 0.5) / 400, (np.arange(400) + 0.5) / 400)
    t, s = (cosine_levels(v, LOW, HIGH) for v in (np.maximum(u - gap / STEPS, 0.0), u))
    v, ratio = STD**2, (s / t) ** 2
    a, b = v / (v + t**2), v / (v + s**2)
    c = a + ratio * (1 - a)
    square = c**2 * (v + t**2) + ratio * (t**2 - s**2)
    slope = 2 * STD * s**2 / (v + s**2) ** 2
    expected = np.mean(2 * np.maximum(s**-2, 1) * (b * square - a * c * (v + t**2)) * slope)
    found = gradient(moments(), data(rng, COUNT), "fake", {"network": DATA})["network"]
    np.testing.assert_allclose(found["std"], expected, rtol=0.02)
    assert expected > 0.01 and abs(found["mean"]) < 0.02 * expected


def test_score_distillation_pulls_a_scene_to_the_mean():
    """For a Gaussian teacher the gradient is w s/(v + s^2) (x - mean), in the mean over noise."""
    render = lambda scene, key: jnp.broadcast_to(scene["x"][None], (COUNT, 1))  # noqa: E731
    scene = {"x": jnp.asarray([1.5])}
    method = score_distillation(TEACHER.denoiser, render, scene, levels=fixed)
    expected = variance(LEVEL) * LEVEL / (STD**2 + LEVEL**2) * (1.5 - MEAN)
    check({"x": gradient(method, {})["x"][0]}, {"x": expected})
    state = init_state(method, KEY)
    assert method.sampler(state)(KEY).shape == (COUNT, 1)


def test_variational_score_distillation_is_the_gradient_of_the_divergence():
    """Where the fake score is right, with w/s = s^-2."""

    def render(scene, key):
        return scene["mean"] + scene["std"] * jax.random.normal(key, (COUNT, 1))

    method = variational_score_distillation(
        TEACHER.denoiser, render, THETA, fake(), rank=0, levels=fixed, weight=lambda s: 1.0 / s
    )
    check(gradient(method, {}), jax.grad(kl)(THETA))


@pytest.mark.slow
def test_a_discriminator_mends_a_wrong_model():
    """With log p/q of the noisy densities the model's denoiser becomes the data's."""
    model = fake().denoiser(THETA)

    def logits(y, s, cond=None):
        v, w = THETA["std"] ** 2 + s**2, STD**2 + s**2
        log_p = -0.5 * ((y[:, 0] - MEAN) ** 2 / w + jnp.log(w))
        return log_p + 0.5 * ((y[:, 0] - THETA["mean"]) ** 2 / v + jnp.log(v))

    y, s = jnp.linspace(-2.0, 2.0, 9)[:, None], jnp.geomspace(0.1, 5.0, 9)
    D = discriminator_guidance(model, logits)
    np.testing.assert_allclose(D(y, s), TEACHER.denoiser(y, s), rtol=1e-9)
    np.testing.assert_allclose(discriminator_guidance(model, logits, 0.0)(y, s), model(y, s))
    one = jnp.full(9, 0.7)
    np.testing.assert_allclose(D(y, 0.7), TEACHER.denoiser(y, one), rtol=1e-9)
    half = 0.5 * (model(y, s) + TEACHER.denoiser(y, s))
    np.testing.assert_allclose(discriminator_guidance(model, logits, 0.5)(y, s), half, rtol=1e-9)

    method = discriminator(
        model, lambda a, y, s, cond: a * logits(y, s), jnp.asarray(1.0), levels=fixed
    )
    z = jax.random.normal(KEY, (2, COUNT, 1))
    batch = {"image": MEAN + STD * z[0], "sample": THETA["mean"] + THETA["std"] * z[1]}
    slopes = [float(gradient(method, batch, params=a)) for a in (0.0, 1.0)]
    assert abs(slopes[1]) < 0.02 * abs(slopes[0]) and slopes[0] < 0
    with pytest.raises(ValueError, match="needs 'sample'"):
        method.check({"image": np.asarray(z[0])})


def test_neighbours_are_of_one_diffusion():
    levels = [3.0, 1.0, 0.0]
    pair = jax.tree.map(np.asarray, neighbours(KEY, jnp.zeros((COUNT, 1)), levels))
    top = pair.t == 3.0
    assert abs(top.mean() - 0.5) < 0.01
    assert ((pair.s == 1.0) == top).all() and (pair.y_s[~top] == 0).all()
    np.testing.assert_allclose(pair.y_t[top].std(), 3.0, rtol=0.01)
    both = np.mean(pair.y_t[top] * pair.y_s[top])
    np.testing.assert_allclose([both, pair.y_s[top].var()], 1.0, rtol=0.03)


def test_a_correction_knows_what_the_denoiser_is():
    """Labels and options of the call; the guided sampler is that of the trained discriminator."""
    y, s, cond = jnp.ones((3, 2)), jnp.asarray([0.5, 1.0, 2.0]), jnp.asarray([1.0, 2.0, 3.0])

    def model(y, s, cond=None, *, extra=0.0):
        return y * (cond + extra)[:, None]

    def logits(a, y, s, cond):
        return a * jnp.sum(y, axis=1) * cond

    found = discriminator_guidance(model, functools.partial(logits, 0.7))(y, s, cond, extra=0.5)
    expected = (cond + 0.5 + 0.7 * s**2 * cond)[:, None] * jnp.ones((1, 2))
    np.testing.assert_allclose(found, expected)
    per_sample = discriminator_guidance(model, functools.partial(logits, 0.7), cond)(y, s, cond)
    np.testing.assert_allclose(per_sample[:, 0], cond + cond * 0.7 * s**2 * cond)

    method = discriminator(model, logits, lambda key: jnp.asarray(0.7), ema={"slow": constant(0.9)})
    state = init_state(method, KEY)._replace(ema={"student": {"slow": jnp.asarray(0.2)}})
    for options, a in (({}, 0.7), ({"ema": "slow"}, 0.2), ({"weight": 2.0}, 1.4)):
        sampler = method.sampler(state, **options)
        expected = (cond + a * s**2 * cond)[:, None] * jnp.ones((1, 2))
        np.testing.assert_allclose(sampler.denoiser(y, s, cond), expected)
        assert sampler.table.nfe == 35
    own = table(solvers.euler, [2.0, 1.0, 0.0])
    assert method.sampler(state, own).table is own
