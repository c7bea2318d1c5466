"""Samplers against exact truth: marginals of stochastic solvers, frames, the adaptive solver,
devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name
from helpers.scripts import last_line

from jaxdiff import grids, process, solvers
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import denoiser
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.prediction import convert, row
from jaxdiff.sampling.adaptive.probability_flow import adaptive
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table


@pytest.fixture(scope="module")
def mixture():
    means = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, np.full((3, 2), 0.05))


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.array([0.3, -0.2, 1.0]), np.array([0.04, 0.5, 1.3]))


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (solvers.ddim, {"eta": 1.0}),
        pytest.param(solvers.ddim, {"eta": 0.6}, marks=pytest.mark.slow),
        pytest.param(solvers.ddpm, {"variance": "small"}, marks=pytest.mark.slow),
        (solvers.churn, {"amount": 40.0, "low": 0.0, "high": float("inf"), "inflate": 1.0}),
        pytest.param(
            solvers.churn,
            {"amount": 40.0, "inflate": 1.0, "step": solvers.steps.dpm2_step},
            marks=pytest.mark.slow,
        ),
        pytest.param(solvers.dpm2_ancestral, {}, marks=pytest.mark.slow),
        pytest.param(solvers.dpmpp_2s_ancestral, {"eta": 0.7}, marks=pytest.mark.slow),
        pytest.param(solvers.sde_dpmpp, {"order": 2}, marks=pytest.mark.slow),
        pytest.param(solvers.sde_dpmpp, {"order": 3, "eta": 0.6}, marks=pytest.mark.slow),
        pytest.param(solvers.sde_dpmpp_2s, {}, marks=pytest.mark.slow),
    ],
    ids=name,
)
def test_stochastic_marginals_on_a_mixture(mixture, key, rng, solver, options):
    """Mean and covariance of the samples are those of the data, to sampling error and a small bias
    of the steps. One solver draws by its key, the others are given noise, which is quicker.
    """
    count, steps = 20_000, 60 if solver is solvers.churn else 250
    made = table(solver, grids.karras(steps, 0.01, 40.0), **options)
    x = 40.0 * start_noise(key, count, (2,), jnp.float64)
    drawn = (len(made.draws), count, 2)
    own = {"key": key} if options == {"eta": 1.0} else {"noise": rng.normal(size=drawn)}
    out = sample(mixture.denoiser, made, x, **own)
    mean, covariance = mixture.moments()
    error = 4 * np.sqrt(np.diag(covariance) / count)
    assert (np.abs(out.mean(0) - mean) < error + 0.005).all()
    np.testing.assert_allclose(np.cov(out.T), covariance, atol=0.03)


def test_large_variance_of_ddpm_is_that_of_the_forward_step():
    """One step from s to r adds noise of the variance of q(x_s | x_r), in the variance-preserving
    frame.
    """
    s, r = 2.0, 0.5
    made = table(solvers.ddpm, [s, r], variance="large")
    alpha = lambda level: 1 / np.sqrt(1 + level**2)  # noqa: E731
    beta = 1 - (alpha(s) / alpha(r)) ** 2
    assert made.noises[-1, -1, 0] == pytest.approx(np.sqrt(beta) / alpha(r))
    small = table(solvers.ddpm, [s, r], variance="small").noises[-1, -1, 0]
    assert small == pytest.approx(table(solvers.ddim, [s, r], eta=1.0).noises[-1, -1, 0])


FRAMES = [
    (process.EDM(), "edm"),
    (process.VE(), "eps"),
    (process.VP(), "eps"),
    (process.VP(), "v"),
    (process.SubVP(), "score"),
    (process.Cosine(), "v"),
    (process.RectifiedFlow(), "flow"),
    (process.TrigFlow(), "v"),
    (process.TrigFlow(0.5), "x0"),
]


@pytest.mark.parametrize(
    ("frame", "prediction", "solver"),
    [(*f, solvers.unipc) for f in FRAMES] + [(*FRAMES[3], solvers.ddim)],
    ids=name,
)
def test_every_frame_gives_the_same_samples(gaussian, key, frame, prediction, solver):
    """A perfect network of any process and prediction becomes the same denoiser, so samples are
    the same.
    """

    def network(params, x, t, cond):
        alpha, sigma = frame.alpha(t), frame.sigma(t)
        column = lambda a: jnp.reshape(a, (-1, 1))  # noqa: E731
        x0 = gaussian.denoiser(x / column(alpha), sigma / alpha)
        eps = (x - column(alpha) * x0) / column(sigma)
        a, b = row(prediction, alpha, sigma, process.rates(frame, t))
        return (
            column(jnp.broadcast_to(a, t.shape)) * x0 + column(jnp.broadcast_to(b, t.shape)) * eps
        )

    def edm_network(params, x, label, cond):
        level = jnp.exp(4 * label).reshape(-1, 1)
        y = x * jnp.sqrt(level**2 + 0.25)
        x0 = gaussian.denoiser(y, level[:, 0])
        return convert(
            x0, y, (1.0, 0.0), row("edm", jnp.ones_like(level[:, 0]), level[:, 0]), 1.0, level[:, 0]
        )

    D = denoiser(
        edm_network if prediction == "edm" else network, {}, prediction=prediction, process=frame
    )
    made = table(solver, grids.karras(8, 0.05, 20.0, zero=False))
    x = 20.0 * start_noise(key, 4, (3,), jnp.float64)
    expected = sample(gaussian.denoiser, made, x, key=key)
    np.testing.assert_allclose(sample(D, made, x, key=key), expected, rtol=1e-9, atol=1e-9)


def counting(D, calls):
    def counted(y, level, cond=None):
        def record(y):
            calls.append(1)
            return y

        return D(jax.pure_callback(record, jax.ShapeDtypeStruct(y.shape, y.dtype), y), level)

    return counted


@pytest.mark.parametrize(
    "solver_name",
    [
        "Tsit5",
        "Heun",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("Dopri5", "Bosh3", "Midpoint")),
    ],
)
def test_adaptive_counts_its_evaluations(gaussian, solver_name):
    import diffrax

    calls = []
    x = 20.0 * start_noise(jax.random.key(0), 3, (3,), jnp.float64)
    out = adaptive(
        counting(gaussian.denoiser, calls), x, 20.0, 0.05, rtol=1e-3, atol=1e-3,
        solver=getattr(diffrax, solver_name)(), per_sample=False, denoise=True,
    )  # fmt: skip
    out.states.block_until_ready()
    assert (out.nfe == len(calls)).all(), (out.nfe, len(calls))


@pytest.mark.parametrize("per_sample", [True, False])
def test_adaptive_solves_the_flow(gaussian, per_sample):
    x = gaussian.mean[None] + 20.0 * start_noise(jax.random.key(0), 4, (3,), jnp.float64)
    out = jax.jit(
        lambda x: adaptive(
            gaussian.denoiser, x, 20.0, 0.05, rtol=1e-7, atol=1e-9, per_sample=per_sample
        )
    )(x)
    np.testing.assert_allclose(out.states, gaussian.flow(x, 20.0, 0.05), rtol=1e-5, atol=1e-6)
    loose = adaptive(gaussian.denoiser, x, 20.0, 0.05, rtol=1e-3, atol=1e-3, per_sample=per_sample)
    assert (loose.nfe < out.nfe).all()


@pytest.mark.slow
def test_adaptive_is_independent_of_the_batch(mixture):
    x = 20.0 * start_noise(jax.random.key(0), 4, (2,), jnp.float64)
    labels = jnp.arange(4.0)
    whole = adaptive(mixture.denoiser, x, 20.0, 0.01)
    alone = adaptive(mixture.denoiser, x[2:3], 20.0, 0.01)
    np.testing.assert_allclose(alone.states, whole.states[2:3], rtol=1e-12)
    assert alone.nfe[0] == whole.nfe[2]
    shifted = lambda y, level, cond: mixture.denoiser(y, level) + 0.1 * cond.reshape(-1, 1)  # noqa: E731
    by_vmap = jax.vmap(lambda y: adaptive(mixture.denoiser, y[None], 20.0, 0.01).states[0])(x)
    np.testing.assert_allclose(by_vmap, whole.states, rtol=1e-12)
    conditional = adaptive(shifted, x, 20.0, 0.01, labels)
    np.testing.assert_allclose(conditional.states[0], whole.states[0], rtol=1e-12)
    assert np.abs(conditional.states[1] - whole.states[1]).max() > 0.1


@pytest.mark.slow
def test_adaptive_errors(mixture):
    x = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="low < high"):
        adaptive(mixture.denoiser, x, 1.0, 2.0)
    with pytest.raises(ValueError, match="positive"):
        adaptive(mixture.denoiser, x, 1.0, 0.0)
    with pytest.raises(RuntimeError, match="ran out of 3 steps"):
        adaptive(mixture.denoiser, 80.0 * x, 80.0, 0.001, max_steps=3)


def test_guidance_weights(key):
    classes = GaussianMixture(
        np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[-1.0], [1.0]]), np.array([0.1, 0.1])
    )
    y, labels = jnp.array([[0.3], [-0.4]]), jnp.array([0, 1])
    D = jax.jit(classes.denoiser)
    np.testing.assert_allclose(classifier_free(D, 1.0)(y, 0.7, labels), D(y, 0.7, labels))
    np.testing.assert_allclose(classifier_free(D, 0.0)(y, 0.7, labels), D(y, 0.7))
    weights = jnp.array([0.0, 2.0])
    both = classifier_free(D, weights)(y, 0.7, labels)
    np.testing.assert_allclose(both[0], D(y, 0.7)[0])
    np.testing.assert_allclose(both[1], (2.0 * D(y, 0.7, labels) - D(y, 0.7))[1])


def test_sampler_is_a_denoiser_and_a_table(gaussian, key):
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), gaussian)
    sampler = Sampler(single.denoiser, table(solvers.ddim, grids.karras(5)))
    some = sampler(key, jnp.array([7, 2]), (3,))
    assert some.dtype == jnp.float32 and some.shape == (2, 3)
    np.testing.assert_allclose(sampler(key, 8, (3,))[jnp.array([7, 2])], some, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "multidevice_sampling.py",
        pytest.param("multidevice_solves.py", marks=pytest.mark.slow),
        pytest.param("multidevice_guidance.py", marks=pytest.mark.slow),
    ],
)
def test_samples_are_the_same_on_eight_devices(name):
    assert "same everywhere" in last_line(name, devices=8)
