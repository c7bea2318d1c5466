"""Classification by denoisers: Bayes' rule on exact models, unbiased estimates, own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact
from jaxdiff.classify.diffusion_classifier import (
    Classified,
    Round,
    bayes,
    diffusion_classifier,
    quadrature_log_posterior,
)
from jaxdiff.classify.frame import Shares, distilled
from jaxdiff.classify.trained import accuracy, predictions
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import MLP, from_linen

LOW, HIGH = 0.05, 20.0
NETWORK = denoiser(from_linen(MLP(num_classes=3)), {})


@pytest.fixture(scope="module")
def truth():
    """Three classes over four components of the line."""
    weights = [[0.7, 0.3, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.1, 0.0, 0.2, 0.7]]
    return exact.GaussianMixture(weights, [[-1.0], [0.0], [0.7], [1.5]], [0.4, 0.3, 0.5, 0.6])


def log_grid(low, high, pieces, nodes):
    """Gauss-Legendre nodes in log level, piece by piece."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    ends = np.linspace(np.log(low), np.log(high), pieces + 1)
    half = (ends[1] - ends[0]) / 2
    u = (ends[:-1, None] + half * (x + 1)).ravel()
    return jnp.exp(jnp.asarray(u)), jnp.asarray(np.tile(half * w, pieces))


def normal_nodes(count):
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return jnp.asarray(x)[:, None], jnp.asarray(w / w.sum())


@pytest.fixture(scope="module")
def integrated(truth):
    """Log posteriors of four samples by quadrature, compiled once."""

    @jax.jit
    def run(x, prior, low_to_high):
        return quadrature_log_posterior(
            truth.denoiser, x, jnp.arange(3), *low_to_high, *normal_nodes(40), prior=prior
        )

    return lambda x, low, high, prior: run(x, prior, log_grid(low, high, 12, 8))


def test_the_integral_of_exact_errors_is_bayes_rule(truth, integrated):
    x = jnp.array([[-1.2], [0.1], [0.8], [2.5]])
    prior = jnp.array([0.5, 0.3, 0.2])
    density = jax.jit(lambda c: truth.log_density(x, 0.0, c))
    likelihoods = jnp.stack([density(jnp.full(4, c)) for c in range(3)], axis=1)
    joint = np.exp(likelihoods) * np.asarray(prior)
    expected = np.log(joint / joint.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(bayes(likelihoods, prior), expected, atol=1e-12)
    np.testing.assert_allclose(integrated(x, 1e-4, 1e4, prior), expected, atol=1e-6)


def test_the_estimate_is_unbiased_and_its_noise_is_shared_by_classes(truth, integrated):
    """Within four standard errors of the integral between the same levels."""
    count, draws = 2000, 4
    x = jnp.full((count, 1), 0.4)
    run = jax.jit(
        lambda key: diffusion_classifier(
            truth.denoiser, x, jnp.arange(3), LOW, HIGH, key=key, rounds=((draws, 3),)
        )
    )
    found = run(jax.random.key(1))
    assert found.nfe == draws * 3
    integral = np.log(HIGH / LOW) * np.asarray(found.errors)
    exactly = np.asarray(integrated(x[:4], LOW, HIGH, jnp.full(3, 1 / 3)))[0]
    for a, b in ((0, 1), (0, 2)):
        apart = integral[:, b] - integral[:, a]
        error = apart.std() / count**0.5
        assert abs(apart.mean() - (exactly[a] - exactly[b])) < 4 * error
        assert apart.var() < 0.5 * (integral[:, a].var() + integral[:, b].var())


def toward(y, level, cond):
    """A denoiser that answers with its condition: the error is |x - cond|^2 / level^2."""
    return 0 * y + cond["mean"] * cond["scale"][:, None, None]


def test_a_posterior_that_is_no_number_is_of_no_class():
    numbers = jnp.log(jnp.array([[0.2, 0.8], [jnp.nan, jnp.nan], [1.0, 0.0]]))
    found = Classified(numbers, numbers, 2)
    np.testing.assert_array_equal(found.label, [1, 2, 0])


def test_rounds_drop_the_worst_classes_of_every_sample(rng):
    """Of samples of any rank and conditions that are trees, whatever else is in the batch."""
    means = jnp.asarray(rng.normal(size=(4, 2, 2)))
    candidates, prior = {"mean": means, "scale": jnp.ones(4)}, jnp.array([0.4, 0.3, 0.2, 0.1])
    x = jnp.concatenate([means[:3] + 0.1, means[1:3] * 0.8])

    @jax.jit
    def classify(data, index):
        return diffusion_classifier(
            toward, data, candidates, LOW, HIGH, key=jax.random.key(2),
            rounds=(Round(2, 3), (3, 2)), index=index, prior=prior,
        )  # fmt: skip

    found = classify(x, jnp.arange(5))
    assert found.nfe == 2 * 4 + 3 * 3
    apart = np.square(np.asarray(x)[:, None] - np.asarray(means)).sum(axis=(2, 3))
    order = apart.argsort(axis=1)
    np.testing.assert_array_equal(found.label, order[:, 0])
    kept = np.isfinite(np.asarray(found.log_posterior))
    np.testing.assert_array_equal(kept, apart.argsort(axis=1).argsort(axis=1) < 2)
    score = np.log(prior) - np.log(HIGH / LOW) * np.asarray(found.errors)
    score = np.where(kept, score, -np.inf)
    expected = score - np.logaddexp.reduce(score, axis=1, keepdims=True)
    np.testing.assert_allclose(found.log_posterior, expected, atol=1e-9)
    precision = np.asarray(found.errors) / apart  # mean of 1/level^2: of five draws, of two
    of = lambda place: np.take_along_axis(precision, order[:, place, None], 1)[:, 0]  # noqa: E731
    np.testing.assert_allclose(of(0), of(1))
    np.testing.assert_allclose(of(0), of(2))
    assert (np.abs(of(0) - of(3)) > 1e-3 * of(0)).all()
    again = classify(x[::-1], jnp.arange(5)[::-1])
    np.testing.assert_allclose(again.errors[::-1], found.errors)


def test_a_denoiser_is_compiled_once_for_all_batches_of_one_shape():
    traced = []

    def denoise(y, level, cond):
        traced.append(y.shape)
        return 0 * y + cond[:, None]

    def classify(seed):
        data = jax.random.normal(jax.random.key(seed), (2, 1))
        return diffusion_classifier(
            denoise, data, jnp.array([-1.0, 1.0]), LOW, HIGH, key=jax.random.key(seed),
            rounds=((2, 2), (2, 2)),
        )  # fmt: skip

    first, shapes = classify(0), len(traced)
    second = classify(1)
    assert len(traced) == shapes
    assert not np.array_equal(first.errors, second.errors)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"low": 0.0}, ValueError, "0 < low < high"),
        ({"rounds": ()}, ValueError, "at least one"),
        ({"rounds": ((2, 4),)}, ValueError, "keep 1 to 3"),
        ({"rounds": ((2, 2), (2, 3))}, ValueError, "keep 1 to 2"),
        ({"rounds": ((0, 3),)}, ValueError, "draws of at least 1"),
        ({"rounds": ((2.5, 3),)}, ValueError, "whole numbers"),  # a level beyond the highest
        ({"data": jnp.zeros((0, 1))}, ValueError, "no samples"),
        ({"prior": jnp.array([0.5, 0.5])}, ValueError, r"prior must have shape \(3,\)"),
        ({"prior": jnp.array([0.5, 0.5, 0.5])}, ValueError, "sum to 1"),
        ({"candidates": jnp.asarray(3)}, ValueError, "first axis of classes"),
        ({"data": jnp.zeros((2, 1), int)}, TypeError, "floating"),
        ({"key": jnp.zeros(2, jnp.uint32)}, TypeError, "typed key"),
        ({"denoiser": lambda y, s, c: y[:1]}, ValueError, r"returned shape \(1, 1\)"),
        ({"denoiser": 3}, TypeError, "a denoiser is a function"),
        ({"denoiser": NETWORK, "candidates": jnp.arange(5)}, ValueError, "3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(truth, changed, error, message):
    arguments = {
        "denoiser": truth.denoiser,
        "data": jnp.zeros((2, 1)), "candidates": jnp.arange(3), "low": LOW, "high": HIGH,
        "key": jax.random.key(0), "rounds": ((2, 3),),
    } | changed  # fmt: skip
    with pytest.raises(error, match=message):
        diffusion_classifier(**arguments)


def test_levels_may_be_traced(truth):
    given = {"key": jax.random.key(0), "rounds": ((2, 2), (1, 2))}
    one = lambda low: diffusion_classifier(  # noqa: E731
        truth.denoiser, jnp.zeros((2, 1)), jnp.arange(3), low, HIGH, **given
    )
    assert jax.eval_shape(lambda low: one(low).log_posterior, 0.1).shape == (2, 3)


def test_quadrature_refuses_nodes_without_weights(truth):
    one, points = jnp.ones(2), jnp.zeros((3, 1))
    with pytest.raises(ValueError, match="levels and level_weights"):
        quadrature_log_posterior(
            truth.denoiser, points, jnp.arange(3), one, one[:1], points, jnp.ones(3)
        )
    with pytest.raises(ValueError, match="noises must have shape"):
        quadrature_log_posterior(
            truth.denoiser, points, jnp.arange(3), one, one, points[:, 0], jnp.ones(3)
        )


@pytest.mark.slow
def test_likelihoods_by_the_probability_flow_are_bayes_rule(truth):
    import jaxdiff as jd

    x = jnp.array([[-1.2], [0.8]])
    by_ode = [
        jd.log_likelihood(
            truth.denoiser, x, 1e3, 1e-4, jnp.full(2, c), rtol=1e-10, atol=1e-10
        ).log_density
        for c in range(3)
    ]
    by_density = [truth.log_density(x, 0.0, jnp.full(2, c)) for c in range(3)]
    found, expected = (bayes(jnp.stack(d, axis=1)) for d in (by_ode, by_density))
    np.testing.assert_allclose(found, expected, atol=2e-3)  # N(0, high^2) for every class


def test_logits_that_are_no_numbers_are_of_no_class():
    class Broken:
        def __call__(self, images):
            return jnp.where(images[:, :1] > 0, images, jnp.nan)

    jax.tree_util.register_static(Broken)
    images = np.array([[0.5, 0.7], [-1.0, 0.0], [0.9, 0.1]])
    np.testing.assert_array_equal(predictions(Broken(), images, 2), [1, 2, 0])
    assert accuracy(Broken(), images, np.array([1, 0, 0])) == 2 / 3


def test_weights_of_methods_that_are_none_are_refused():
    for given in ({"weight": -1.0}, {"shares": Shares(jnp.inf)}, {"shares": Shares(1.0, jnp.nan)}):
        with pytest.raises(ValueError, match="must not be negative, and finite"):
            distilled("kd", None, None, **given)
