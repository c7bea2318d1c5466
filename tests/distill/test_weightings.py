"""Weights and distributions of levels: numbers by hand; none of them moves the minimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiff import distill, prediction
from jaxdiff.denoisers import denoiser, scalings
from jaxdiff.distill.parts import level_distributions as distributions
from jaxdiff.distill.parts import weightings
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.exact import Gaussian
from jaxdiff.process import EDM, VP, Cosine, RectifiedFlow, TrigFlow

LEVEL = np.array([0.5, 1.0, 2.0])
PROCESSES = {"vp": VP(), "cosine": Cosine(), "flow": RectifiedFlow(), "trig": TrigFlow(0.5)}
DISTRIBUTIONS = {
    "log_normal": lambda process: distributions.log_normal(-0.4, 1.0),
    "uniform": distributions.uniform_times,
    "logit_normal": distributions.logit_normal_process_times,
}


def test_weights_by_hand():
    """SNRs 4, 1, 1/4 at levels 1/2, 1, 2."""
    limited = weightings.min_snr(3.0)(jnp.asarray(LEVEL), 0.5)
    np.testing.assert_allclose(limited, [3.0, 1.0, 0.25])
    flow = weightings.prediction_weight("flow", RectifiedFlow())(jnp.asarray(LEVEL), 0.5)
    np.testing.assert_allclose(flow, [9.0, 4.0, 2.25], rtol=1e-6)  # (1 + s)^2/s^2
    v = weightings.prediction_weight("v", VP())(jnp.asarray(LEVEL), 0.5)
    np.testing.assert_allclose(v, [5.0, 2.0, 1.25], rtol=1e-6)
    eps = weightings.prediction_weight("eps", VP())(jnp.asarray(LEVEL), 0.5)
    np.testing.assert_allclose(eps, [4.0, 1.0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(
        weightings.prediction_weight("x0", VP())(jnp.asarray(LEVEL), 0.5), 1.0
    )
    log_normal = distributions.log_normal(0.0, 1.0)
    by_hand = 1 / (1 + np.exp(-2.0)) * np.sqrt(2 * np.pi)  # at level 1: lambda = 0
    np.testing.assert_allclose(
        weightings.sigmoid(log_normal, 2.0)(jnp.asarray(LEVEL), 0.5)[1], by_hand
    )
    with pytest.raises(ValueError, match="limit of the signal-to-noise ratio must be positive"):
        weightings.min_snr(0.0)
    with pytest.raises(ValueError, match="unknown prediction"):
        weightings.prediction_weight("noise", VP())


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ["eps", "x0", "v", "flow"])
def test_the_weight_of_a_prediction_is_that_of_its_denoiser(process, name):
    D = denoiser(lambda p, x, label, cond: x, {}, prediction=name, process=PROCESSES[process])
    level = jnp.asarray(LEVEL, jnp.float32)
    weight = weightings.prediction_weight(name, PROCESSES[process])(level, 0.5)
    np.testing.assert_allclose(weight, 1 / scalings(D, level)[1] ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "process"),
    [("log_normal", "vp"), ("uniform", "vp"), ("logit_normal", "flow")]
    + [
        pytest.param(name, process, marks=pytest.mark.slow)
        for name in ("uniform", "logit_normal") for process in PROCESSES
    ],
)  # fmt: skip
def test_levels_have_the_density_that_is_stated(name, process):
    """Its integral between two levels is the share of the draws between them."""
    made = DISTRIBUTIONS[name](PROCESSES[process])
    drawn = np.log(made.draw(jax.random.key(0), jnp.zeros((20_000, 1), jnp.float64)))
    low, high = np.log(0.3), np.log(3.0)
    grid = np.linspace(low, high, 401)
    share = np.trapezoid(made.density(jnp.exp(jnp.asarray(grid))), grid)
    found = np.mean((drawn > low) & (drawn < high))
    assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / drawn.size)


def test_logit_normal_times_of_rectified_flow_are_log_normal_levels():
    made = distributions.logit_normal_process_times(RectifiedFlow(), 0.3, 0.8)
    same = distributions.log_normal(0.3, 0.8)
    np.testing.assert_allclose(
        made.density(jnp.asarray(LEVEL)), same.density(jnp.asarray(LEVEL)), rtol=1e-6
    )
    drawn = np.log(made.draw(jax.random.key(1), jnp.zeros((4000, 1), jnp.float64)))
    assert scipy.stats.kstest(np.asarray(drawn), scipy.stats.norm(0.3, 0.8).cdf).pvalue > 1e-3
    for wrong in (0.0, float("nan")):
        with pytest.raises(ValueError, match="standard deviation of a distribution is positive"):
            distributions.log_normal(0.0, wrong)


WEIGHTS = {
    "uniform": lambda levels: prediction.uniform_weight,
    "edm": lambda levels: prediction.edm_weight,
    "min_snr": lambda levels: weightings.min_snr(),
    "sigmoid": weightings.sigmoid,
    "flow": lambda levels: weightings.prediction_weight("flow", RectifiedFlow()),
}


@pytest.mark.parametrize(
    "name",
    ["uniform", *(pytest.param(n, marks=pytest.mark.slow) for n in ("log_normal", "logit_normal"))],
)
def test_every_weighted_loss_is_stationary_at_the_denoiser_of_a_gaussian(name):
    """And its gradient away from it is not zero. The network is the exact denoiser with its output
    moved by ``shift`` y: the gradient at shift 0 vanishes up to the draws' noise.
    """
    exact, levels = Gaussian([0.0], [0.7]), DISTRIBUTIONS[name](VP())

    def network(params, x, label, cond, key=None):
        return exact.denoiser(x, label) + params["shift"] * x

    student = distill.Student(
        network, {"shift": jnp.zeros(())}, prediction="x0", process=EDM(t_max=1e3), label_drop=0.0
    )
    made = [score_matching(student, weight=w(levels), levels=levels) for w in WEIGHTS.values()]
    losses = [method.players["student"].loss for method in made]
    x0 = exact.sample(jax.random.key(2), 512)

    def values(shift, key):
        params = {"shift": shift}
        return jnp.stack([loss(params, None, {"image": x0}, key)[0] for loss in losses])

    gradient = jax.jacfwd(values)
    keys = jax.random.split(jax.random.key(3), 40)
    at_exact, beside = jax.jit(jax.vmap(lambda k: (gradient(0.0, k), gradient(0.1, k))))(keys)
    noise = np.std(at_exact, axis=0) / np.sqrt(len(keys))
    assert (np.abs(np.mean(at_exact, axis=0)) < 4 * noise).all()
    assert (np.mean(beside - at_exact, axis=0) > 0).all() and np.isfinite(beside).all()
