"""Three problems whose denoiser, flow and distribution are exact.

- A Gaussian with the spectrum of natural images: mean and variances of CIFAR-10's training images
  (in [-1, 1], 3072 dimensions) along their principal axes. What a linear solver returns there is
  Gaussian too, so both of its errors are closed-form and free of sampling noise.
- An anisotropic mixture: four components in eight dimensions, variances from 0.001 to 0.3.
- A finite data set of real images: scikit-learn's 1797 handwritten digits, 8x8, in [-1, 1]. Its
  denoiser is that of a network that has memorised them.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

LOW, HIGH = 0.002, 80.0
SPECTRUM = pathlib.Path(__file__).parent / "cifar10_gaussian.npz"


class Problem(NamedTuple):
    """Starts at level HIGH, where the exact flow takes them, and samples of the data.

    scale: root mean square distance of the data from their mean, the unit of all errors.
    """

    name: str
    denoiser: Any
    start: jax.Array
    flowed: jax.Array
    data: np.ndarray
    scale: float


def natural_spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Mean and variances (3072,) of CIFAR-10's training images along their principal axes."""
    arrays = np.load(SPECTRUM)
    return arrays["mean"].astype(np.float64), arrays["variance"].astype(np.float64)


def _problem(name: str, model: Any, data: np.ndarray, count: int) -> Problem:
    start = HIGH * jd.start_noise(jax.random.key(1), count, data.shape[1:], jnp.float64)
    end = jd.adaptive(
        model.denoiser, start, HIGH, LOW, rtol=1e-9, atol=1e-9, per_sample=False, max_steps=100_000
    )
    flowed = model.denoiser(end.states, LOW)
    scale = float(np.sqrt(np.mean(np.sum((data - data.mean(0)) ** 2, axis=1))))
    return Problem(name, model.denoiser, start, flowed, data, scale)


def mixture(count: int = 8192) -> Problem:
    """Return the anisotropic mixture."""
    random = np.random.default_rng(0)
    variances = np.exp(random.uniform(np.log(1e-3), np.log(0.3), size=(4, 8)))
    model = jd.exact.GaussianMixture(
        np.array([0.4, 0.3, 0.2, 0.1]), random.normal(size=(4, 8)) * 0.7, variances
    )
    data = np.asarray(model.sample(jax.random.key(2), 4 * count))
    return _problem("mixture", model, data, count)


def digits(count: int = 2048) -> Problem:
    """Return the finite data set."""
    from sklearn.datasets import load_digits

    data = load_digits(return_X_y=True)[0] / 8.0 - 1.0
    return _problem("digits", jd.exact.Empirical(data), data, count)
