"""Problems whose posterior is known: mixtures of four Gaussians in eight dimensions.

Means are N(0, 0.84) and variances along the axes uniform in [0.02, 0.3], so that a coordinate has
variance 1; weights are uniform in [0.5, 1.5] before they are made to sum to 1. Measured are three
projections, A of N(0, 1/8) numbers, with noise 0.05 or 0.3, of a sample of the mixture; or four of
the eight coordinates, without noise. Every seed is another mixture, another A and another sample.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff import operators
from jaxdiff.exact import GaussianMixture
from jaxdiff.metrics import sliced_wasserstein

DIMENSION, COMPONENTS, MEASURED = 8, 4, 3
SMALLEST = 1e-3  # stands for no noise in the exact posterior


class Problem(NamedTuple):
    """A prior, what was measured of a sample of it, and the exact posterior."""

    prior: GaussianMixture
    seen: operators.Measurement
    posterior: GaussianMixture


def problem(seed: int, noise: float) -> Problem:
    """Return the problem of a seed; noise 0 is inpainting."""
    rng = np.random.default_rng(seed)
    means = np.sqrt(0.84) * rng.standard_normal((COMPONENTS, DIMENSION))
    variances = rng.uniform(0.02, 0.3, (COMPONENTS, DIMENSION))
    weights = rng.uniform(0.5, 1.5, COMPONENTS)
    prior = GaussianMixture(weights / weights.sum(), means, variances)
    matrix = rng.standard_normal((MEASURED, DIMENSION)) / np.sqrt(DIMENSION)
    if not noise:
        matrix = np.eye(DIMENSION)[:4]
    k = rng.integers(COMPONENTS)
    x0 = means[k] + np.sqrt(variances[k]) * rng.standard_normal(DIMENSION)
    u = matrix @ x0 + noise * rng.standard_normal(len(matrix))
    seen = operators.Measurement(operators.matrix(matrix), u.astype(np.float32), noise)
    exact = prior.posterior(jnp.asarray(matrix), jnp.asarray(u), max(noise, SMALLEST) ** 2)
    return Problem(prior, seen, exact)


def scores(samples: Any, other: Any, given: Problem) -> dict[str, float]:
    """Return how far samples are from the posterior.

    samples, other: (n, d), the second drawn from the exact posterior. Of a noiseless problem the
    coordinates that were not measured are scored.
    """
    x, y = np.asarray(samples, np.float64), np.asarray(other, np.float64)
    mean, covariance = (np.asarray(part, np.float64) for part in given.posterior.moments())
    u = np.asarray(given.seen.observation)
    misfit = np.sqrt(np.mean((u - np.asarray(given.seen.operator.apply(samples))) ** 2))
    if not float(given.seen.noise):
        x, y, mean, covariance = x[:, 4:], y[:, 4:], mean[4:], covariance[4:, 4:]
    if not np.isfinite(x).all():
        return dict.fromkeys(("sliced", "mean", "covariance", "misfit"), float("nan"))
    return {
        "sliced": sliced_wasserstein(x, y, count=256),
        "mean": float(np.linalg.norm(x.mean(0) - mean)),
        "covariance": float(np.linalg.norm(np.cov(x.T) - covariance) / np.linalg.norm(covariance)),
        "misfit": float(misfit),
    }
