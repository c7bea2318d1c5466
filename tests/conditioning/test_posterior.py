"""Guidance by a measurement, against closed forms, at single evaluations: which method is exact for
which prior, what is the same as what, and what is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.conditioning.posterior import parts
from jaxdiff.exact import Gaussian, GaussianMixture

RNG = np.random.default_rng(11)
N, M, B = 4, 2, 3
MATRIX = RNG.normal(size=(M, N))
ROOT = RNG.normal(size=(N, N))
COVARIANCE = ROOT @ ROOT.T / N + 0.1 * np.eye(N)
MEAN = RNG.normal(size=N)
Y = jnp.asarray(RNG.normal(size=(B, N)) * 2)
LEVEL = jnp.array([0.3, 1.0, 5.0])
OBSERVATION = jnp.asarray(RNG.normal(size=M))
NOISE = 0.2
SEEN = ops.Measurement(ops.matrix(MATRIX), OBSERVATION, NOISE)
FULL = Gaussian(MEAN, COVARIANCE)
ISOTROPIC = Gaussian(MEAN, np.full(N, 0.7))
MIXTURE = GaussianMixture([0.6, 0.4], RNG.normal(size=(2, N)), np.full((2, N), 0.3))


@jax.jit
def at(D, y=Y, level=LEVEL):
    return D(y, level)


def conditioned(mean, covariance, noise=NOISE):
    """E[x0 | y, u] of a Gaussian, by its posterior."""
    mixture = GaussianMixture([1.0], mean[None], covariance[None])
    return at(mixture.posterior(MATRIX, OBSERVATION, noise**2).denoiser)


def same(a, b, rtol=1e-9):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_matching_the_covariance_is_exact_for_every_gaussian():
    exact = conditioned(MEAN, COVARIANCE)
    same(at(posterior.mmps(FULL.denoiser, SEEN, M)), exact)
    same(at(posterior.mmps(FULL.denoiser, SEEN, M, solver="minres")), exact)
    same(at(posterior.gaussian_covariance(FULL.denoiser, SEEN, COVARIANCE)), exact)
    assert np.abs(at(posterior.mmps(FULL.denoiser, SEEN, 1)) - exact).max() > 1e-3
    assert np.abs(at(posterior.pigdm(FULL.denoiser, SEEN, 0.7**0.5)) - exact).max() > 1e-3


@pytest.mark.parametrize("jacobian", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_pseudo_inverse_guidance_is_exact_for_an_isotropic_gaussian(jacobian):
    guided = posterior.pigdm(ISOTROPIC.denoiser, SEEN, 0.7**0.5, jacobian=jacobian)
    same(at(guided), conditioned(MEAN, 0.7 * np.eye(N)))


@pytest.mark.slow
def test_one_noise_for_each_number_and_operators_without_a_decomposition():
    noise = np.array([0.2, 0.5])
    seen = ops.Measurement(ops.linear(ops.matrix(MATRIX).forward, (N,)), OBSERVATION, noise)
    exact = conditioned(MEAN, 0.7 * np.eye(N), noise)
    same(at(posterior.pigdm(ISOTROPIC.denoiser, seen, 0.7**0.5)), exact)
    same(at(posterior.gaussian_covariance(ISOTROPIC.denoiser, seen, 0.7)), exact)


def test_classifier_guidance_by_the_exact_likelihood_is_the_conditional_denoiser():
    exact = MIXTURE.posterior(MATRIX, OBSERVATION, NOISE**2)
    prior = lambda y, s: MIXTURE.log_density(y, s)  # noqa: E731
    likelihood = lambda y, s, cond=None: exact.log_density(y, s) - prior(y, s)  # noqa: E731
    same(at(posterior.classifier(MIXTURE.denoiser, likelihood)), at(exact.denoiser))
    twice = at(posterior.classifier(MIXTURE.denoiser, likelihood, 2.0))
    plain = at(MIXTURE.denoiser)
    same(twice, plain + 2 * (at(exact.denoiser) - plain))  # classifier-free guidance's weight


def test_plug_and_play_is_the_minimum_it_says():
    D, strength, s = MIXTURE.denoiser, 3.0, jnp.asarray(0.8)
    z = at(posterior.diffpir(D, SEEN, strength), level=s)
    loss = lambda z: jnp.sum(  # noqa: E731
        jnp.sum(SEEN.residual(z) ** 2) / (2 * NOISE**2)
        + strength * jnp.sum((z - at(D, level=s)) ** 2) / (2 * s**2)
    )
    np.testing.assert_allclose(jax.grad(loss)(z), 0, atol=1e-10)
    gamma = float(s**2 / (strength * NOISE**2))
    same(at(posterior.dds(D, SEEN, M, gamma), level=s), z)


@pytest.mark.parametrize(
    "guided",
    [
        lambda D, m: posterior.diffpir(D, m),
        lambda D, m: posterior.pigdm(D, m, jacobian=False),
    ],
)
def test_without_noise_the_denoised_state_fits_the_measurement(guided):
    seen = ops.Measurement(SEEN.operator, OBSERVATION, 0.0)
    x0 = at(guided(MIXTURE.denoiser, seen))
    same(seen.operator.apply(x0), jnp.broadcast_to(OBSERVATION, (B, M)))


@pytest.mark.slow
def test_an_energy_of_the_likelihood_puts_all_on_the_mean():
    loss = lambda x: -SEEN.log_likelihood(x)  # noqa: E731
    D = posterior.energy(FULL.denoiser, loss)
    J = np.asarray(FULL.jacobian(Y, LEVEL))
    residual = np.asarray(OBSERVATION) - np.asarray(at(FULL.denoiser)) @ MATRIX.T
    g = np.einsum("bij,bi->bj", J, residual @ MATRIX) / NOISE**2
    same(at(D), at(FULL.denoiser) + np.asarray(LEVEL)[:, None] ** 2 * g)
    weighted = posterior.energy(FULL.denoiser, loss, lambda s: 1 / s**2)
    same(at(weighted), at(FULL.denoiser) + g)
    step = posterior.mpgd(FULL.denoiser, loss, 0.01)
    same(at(step), at(FULL.denoiser) + 0.01 * residual @ MATRIX / NOISE**2)
    same(at(posterior.backward(FULL.denoiser, loss, 1, 0.01)), at(step))
    down = posterior.backward(FULL.denoiser, loss, 400, 0.005)
    same(at(down), at(posterior.diffpir(FULL.denoiser, SEEN, 1e-9)), rtol=1e-4)  # the projection


@pytest.mark.slow
def test_draws_of_no_spread_are_an_energy_and_many_are_pseudo_inverse_guidance(key):
    loss = lambda x: -SEEN.log_likelihood(x)  # noqa: E731
    point = posterior.lgd_mc(ISOTROPIC.denoiser, loss, key, 2, data_std=1e-9)
    same(at(point), at(posterior.energy(ISOTROPIC.denoiser, loss)), rtol=1e-5)
    wide = ops.Measurement(SEEN.operator, OBSERVATION, 1.5)
    many = posterior.lgd_mc(ISOTROPIC.denoiser, lambda x: -wide.log_likelihood(x), key, 40_000)
    exact = at(posterior.pigdm(ISOTROPIC.denoiser, wide))
    away = np.abs(exact - at(ISOTROPIC.denoiser)).max()
    assert np.abs(at(many) - exact).max() < 0.02 * away


def test_steps_subtract_the_papers_gradient_from_the_solvers_step():
    levels, eta, zeta = np.array([5.0, 1.0, 0.3, 0.0]), 0.6, 0.4
    D = FULL.denoiser
    guided = posterior.dps(D, SEEN, levels, zeta, eta)
    noise = jnp.asarray(RNG.normal(size=(2, B, N)))
    y = found = Y
    for i, (s, r) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0 = D(y, s)
        up = eta * (r / s) * np.sqrt(s**2 - r**2)
        down = np.sqrt(r**2 - up**2)
        norm = lambda y, s=s: jnp.sum(jnp.linalg.norm(SEEN.residual(D(y, s)), axis=1))  # noqa: E731
        z = noise[i] if r else 0.0
        y = x0 + down / s * (y - x0) + up * z - zeta * jax.grad(norm)(y)
    found = jd.sample(guided, jd.table(jd.solvers.ddim, levels, eta=eta), Y, noise=noise)
    same(found, y)
    assert np.isnan(guided(Y, 0.7)).all()  # not on the grid


@pytest.mark.slow
def test_a_decoder_of_latents_that_is_exact_is_guidance_of_pictures():
    levels = np.array([1.0, 0.5, 0.0])
    seen = ops.Measurement(ops.mask([1, 1, 0, 0]), jnp.array([0.3, -0.5, 0.0, 0.0]), 0.1)
    twice, half = (lambda z: 2 * z), (lambda x: x / 2)
    D = Gaussian(MEAN / 2, COVARIANCE / 4).denoiser
    z = Y / 2
    plain = posterior.psld(D, seen, half, twice, levels, gluing=0.0)
    fit = lambda z: jnp.linalg.norm(seen.residual(2 * z), axis=1)  # noqa: E731
    alone = posterior.energy(D, fit, posterior.per_step(1.0, levels))
    one = jnp.asarray(1.0)
    same(at(plain, z, one), at(alone, z, one))
    glued = at(posterior.psld(D, seen, half, twice, levels, gluing=0.1), z, one)
    # z0 - enc(...) is -A^T(u - A dec z0)/2 here, so that gluing is 5 % more of the same
    same(glued, at(D, z, one) + 1.05 * (at(plain, z, one) - at(D, z, one)))


@pytest.mark.slow
def test_the_likelihood_of_the_state_itself():
    found = at(posterior.annealed_langevin(FULL.denoiser, SEEN))
    s2 = np.asarray(LEVEL)[:, None] ** 2
    g = (np.asarray(OBSERVATION) - np.asarray(Y) @ MATRIX.T) / (NOISE**2 + s2) @ MATRIX
    same(found, at(FULL.denoiser) + s2 * g)
    fixed = at(posterior.annealed_langevin(FULL.denoiser, SEEN, gamma=0.5))
    g = (np.asarray(OBSERVATION) - np.asarray(Y) @ MATRIX.T) / (NOISE**2 + 0.25) @ MATRIX
    same(fixed, at(FULL.denoiser) + s2 * g)


@pytest.mark.slow
def test_the_sum_of_rows_is_exact_for_one_number():
    seen = ops.Measurement(ops.mask([1, 0, 0, 0]), jnp.array([0.4, 0, 0, 0]), 0.3)
    D = Gaussian(MEAN, np.array([0.2, 0.5, 1.0, 2.0])).denoiser
    same(at(posterior.tmpd(D, seen)), at(posterior.mmps(D, seen, 1)))
    both = ops.Measurement(ops.matrix(MATRIX), OBSERVATION, NOISE)
    assert (
        np.abs(at(posterior.tmpd(FULL.denoiser, both)) - conditioned(MEAN, COVARIANCE)).max() > 0.01
    )


METHODS = {
    "classifier": lambda D, m: posterior.classifier(D, lambda y, s, c=None: m.log_likelihood(y)),
    "energy": lambda D, m: posterior.energy(D, lambda x: -m.log_likelihood(x)),
    "backward": lambda D, m: posterior.backward(D, lambda x: -m.log_likelihood(x), 2, 0.01),
    "mpgd": lambda D, m: posterior.mpgd(D, lambda x: -m.log_likelihood(x), 0.01),
    "dps": lambda D, m: posterior.dps(D, m, (5.0, 1.0, 0.3, 0.0)),
    "mcg": lambda D, m: posterior.mcg(D, m, (5.0, 1.0, 0.3, 0.0)),
    "pigdm": lambda D, m: posterior.pigdm(D, m),
    "mmps": lambda D, m: posterior.mmps(D, m, 2),
    "tmpd": lambda D, m: posterior.tmpd(D, m),
    "gaussian_covariance": lambda D, m: posterior.gaussian_covariance(D, m, 0.7),
    "lgd_mc": lambda D, m: posterior.lgd_mc(
        D, lambda x: -m.log_likelihood(x), jax.random.key(0), 3
    ),
    "diffpir": lambda D, m: posterior.diffpir(D, m),
    "dds": lambda D, m: posterior.dds(D, m, 2),
    "annealed_langevin": lambda D, m: posterior.annealed_langevin(D, m),
}  # fmt: skip
OWN = jnp.asarray(RNG.normal(size=(B, M)))


QUICK = ("mmps",)
ALL = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in METHODS]


@pytest.mark.parametrize("name", ALL)
def test_rows_are_their_own_and_everything_is_differentiable(name):
    """A row alone is the row of a batch, measurements go by vmap, and gradients are finite."""

    def guided(u, noise, y, level):
        return METHODS[name](MIXTURE.denoiser, ops.Measurement(SEEN.operator, u, noise))(y, level)

    def everything(u):
        batch = guided(u, 0.2, Y, LEVEL)
        each = jax.vmap(lambda u, y, s: guided(u, 0.2, y[None], s)[0])(u, Y, LEVEL)
        return batch, each

    batch, each = jax.jit(everything)(OWN)
    same(batch, each)
    slopes = jax.jit(jax.grad(lambda u, n: jnp.sum(guided(u, n, Y, LEVEL) ** 2), (0, 1)))
    of_u, of_noise = slopes(OWN, jnp.asarray(0.2))
    assert np.isfinite(of_u).all()
    assert np.abs(of_u).max() > 1e-6
    assert (of_noise != 0) == (name not in ("dps", "mcg", "dds"))


def test_another_measurement_of_the_same_shape_is_the_same_program():
    structure = jax.tree.structure
    for name in ("dps", "mcg", "mmps", "pigdm", "tmpd", "diffpir", "dds", "annealed_langevin"):
        one, other = (
            METHODS[name](FULL.denoiser, ops.Measurement(ops.mask(known), jnp.zeros(N), 0.1))
            for known in ([1, 0, 0, 0], [0, 1, 0, 1])
        )
        assert structure(one) == structure(other), name
    blurs = [ops.convolution((8, 8), ops.motion_kernel(3, angle)) for angle in (0.0, 45.0)]
    assert structure(blurs[0]) == structure(blurs[1])
    assert structure(ops.jpeg((8, 8), 5)) == structure(ops.jpeg((8, 8), 50))
    assert structure(ops.hadamard((8,), 3, 0)) == structure(ops.hadamard((8,), 3, 1))
    assert structure(ops.average((8,), 2)) == structure(ops.decimate((8,), 2))
    assert structure(blurs[0]) != structure(ops.convolution((9, 8), ops.motion_kernel(3)))


def test_published_dps_divides_by_the_norm_of_the_batch():
    levels = (5.0, 1.0, 0.3, 0.0)
    seen = ops.Measurement(SEEN.operator, OWN, 0.2)
    own = at(posterior.dps(FULL.denoiser, seen, levels))
    whole = at(posterior.dps(FULL.denoiser, seen, levels, reference=True))
    plain = at(FULL.denoiser)
    norms = jnp.linalg.norm(seen.residual(plain), axis=1, keepdims=True)
    same(whole - plain, (own - plain) * norms / jnp.linalg.norm(norms))


@pytest.mark.slow
def test_pictures_in_single_precision():
    operator = ops.average((4, 4, 1), 2)
    seen = ops.Measurement(operator, jnp.zeros((2, 2, 1)), 0.1)
    D = lambda y, level, cond=None: y / (1 + jd.expand(level, y) ** 2)  # noqa: E731
    y = jnp.ones((2, 4, 4, 1), jnp.float32)
    for method in (posterior.mmps, posterior.pigdm, posterior.diffpir):
        out = at(method(D, seen), y, jnp.float32(1.0))
        assert out.dtype == jnp.float32
        # a posterior of N(0, I): the mean of a block has variance 1/8 at level 1, prior and seen
        expected = 0.5 - 0.5 * 0.125 / (0.125 + 0.01) if method is not posterior.diffpir else None
        if expected is not None:
            np.testing.assert_allclose(out, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda D: posterior.mmps(D, OBSERVATION), TypeError, "takes a Measurement"),
        (lambda D: posterior.mmps(D, noiseless()), ValueError, "positive"),
        (lambda D: posterior.mmps(D, SEEN, 0), ValueError, "at least one iteration"),
        (lambda D: posterior.mmps(D, SEEN, solver="lu"), ValueError, "one of cg"),
        (lambda D: posterior.pigdm(D, curved()), TypeError, "linear operator"),
        (lambda D: posterior.pigdm(D, SEEN, 0.0), ValueError, "data_std"),
        (lambda D: posterior.diffpir(D, SEEN, -1.0), ValueError, "strength"),
        (lambda D: posterior.dps(D, SEEN, (1.0, 2.0)), ValueError, "decreas"),
        (lambda D: posterior.dps(D, SEEN, (1.0,)), ValueError, "two or more"),
        (lambda D: posterior.dps(D, SEEN, (1.0, -1.0)), ValueError, "at least 0"),
        (lambda D: posterior.dps(D, SEEN, (2.0, 1.0), 0.0), ValueError, "step"),
        (lambda D: posterior.dps(D, SEEN, (2.0, 1.0), eta=2.0), ValueError, "eta"),
        (lambda D: posterior.energy(D, 3.0), TypeError, "a loss is a function"),
        (lambda D: posterior.energy(D, lambda x: x)(Y, 1.0), ValueError, "number for each sample"),
        (lambda D: posterior.energy(D, jnp.sum, np.nan), ValueError, "finite"),
        (lambda D: posterior.lgd_mc(D, jnp.sum, jax.random.PRNGKey(0)), TypeError, "key"),
        (lambda D: posterior.gaussian_covariance(D, SEEN, np.ones(3)), ValueError, "covariance"),
        (lambda D: posterior.gaussian_covariance(D, SEEN, -np.ones(4)), ValueError, "positive"),
        (lambda D: posterior.mmps(D, own())(Y[:2], 1.0), ValueError, "3 observations"),
        (lambda D: posterior.mmps(D, SEEN)(Y[:, :3], 1.0), ValueError, "shape"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(FULL.denoiser)


def noiseless():
    return ops.Measurement(SEEN.operator, OBSERVATION, 0.0)


def curved():
    return ops.Measurement(ops.nonlinear(jnp.tanh, (N,)), jnp.zeros(N), 0.1)


def own():
    return ops.Measurement(SEEN.operator, OWN, 0.1)


@pytest.mark.parametrize("solve", [parts.conjugate_gradients, parts.minimal_residuals])
def test_a_solve_that_has_converged_keeps_its_gradient_in_float32(solve, rng):
    """More iterations than numbers, of which the last have only rounding to divide by."""
    half = rng.standard_normal((8, 3, 3))
    matrix = half @ np.swapaxes(half, 1, 2) + 0.05**2 * np.eye(3)
    symmetric = lambda m: m + np.swapaxes(m, 1, 2)  # noqa: E731 - what a solve knows of it
    one = lambda m, b: jnp.sum(solve(lambda u: jnp.einsum("bij,bj->bi", m, u), b, 8))  # noqa: E731
    slopes = jax.jit(jax.grad(one, (0, 1)))
    for size in (1.0, 1e-12):
        b = size * rng.standard_normal((8, 3, 1))
        of_m, of_b = slopes(jnp.asarray(matrix, jnp.float32), jnp.asarray(b[..., 0], jnp.float32))
        back = np.linalg.solve(matrix, np.ones_like(b))  # x = m^-1 b in closed form
        np.testing.assert_allclose(of_b, back[..., 0], atol=1e-3 * np.abs(back).max())
        exact = symmetric(-back * np.swapaxes(np.linalg.solve(matrix, b), 1, 2))
        np.testing.assert_allclose(symmetric(of_m), exact, atol=1e-3 * np.abs(exact).max())
