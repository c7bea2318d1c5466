"""Problems with exact answers: denoiser, samples and flow map, data of standard deviation 0.5.

The standard deviation is the root of the mean variance of the coordinates. A problem is chosen by
name, dimension, number of components and seed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key

SIGMA_DATA, LOW, HIGH = 0.5, 0.002, 80.0


class Problem(NamedTuple):
    """A distribution with its exact denoiser. ``modes``: (K, d) means of its components."""

    name: str
    model: Gaussian | GaussianMixture
    dimension: int
    modes: np.ndarray

    def samples(self, key: Key, count: int) -> Array:
        """Exact samples (count, d), float32."""
        return self.model.sample(key, count).astype(jnp.float32)

    def flow(self, y: Array) -> Array:
        """Return where the exact probability flow takes states at level HIGH: closed for a
        Gaussian, else 200 steps of UniPC (off by 3e-6 in two dimensions and 4e-5 in eight, root
        mean square).
        """
        if isinstance(self.model, Gaussian):
            return self.model.flow(y, HIGH, 0.0)
        return sample(self.model.denoiser, table(solvers.unipc, grids.log_snr(200, LOW, HIGH)), y)


def mixture(dimension: int, components: int, seed: int, name: str) -> Problem:
    """Return a mixture of round Gaussians of unequal weights; mean 0."""
    random = np.random.default_rng([seed, dimension, components])
    means = random.normal(size=(components, dimension))
    weights = random.dirichlet(np.full(components, 5.0))
    means -= weights @ means
    spread = np.sqrt((weights @ means**2).mean() + 0.2**2)
    means, variances = means * SIGMA_DATA / spread, (0.2 * SIGMA_DATA / spread) ** 2
    model = GaussianMixture(weights, means, np.full((components, dimension), variances))
    return Problem(name, model, dimension, means)


def spectrum(dimension: int, seed: int) -> Problem:
    """Return a Gaussian whose variances fall as 1/k^2 along random axes, as those of images do."""
    random = np.random.default_rng([seed, dimension])
    axes = np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    variances = 1.0 / np.arange(1, dimension + 1) ** 2
    variances *= SIGMA_DATA**2 / variances.mean()
    mean = 0.2 * random.normal(size=dimension)
    model = Gaussian(mean, axes @ np.diag(variances) @ axes.T)
    return Problem("gaussian", model, dimension, mean[None])


PROBLEMS = ("mixture-2d", "mixture-8d", "gaussian")


def make_problem(
    name: str, *, dimension: int | None = None, components: int | None = None, seed: int = 0
) -> Problem:
    """Return one of "mixture-2d", "mixture-8d", "gaussian" (16-D), or of these with another
    dimension or number of components; a mixture is called by its own dimension.

    Raises ValueError for another name, a dimension or number below 1, components of a Gaussian.
    """
    if name not in PROBLEMS:
        raise ValueError(f"no problem {name!r}; there are {', '.join(PROBLEMS)}")
    for what, number in (("dimension", dimension), ("number of components", components)):
        if number is not None and number < 1:
            raise ValueError(f"the {what} is at least 1, not {number}")
    if name == "gaussian":
        if components is not None:
            raise ValueError("the Gaussian has no components to choose")
        return spectrum(dimension or 16, seed)
    dimension = dimension or (2 if name == "mixture-2d" else 8)
    return mixture(dimension, components or 6, seed, f"mixture-{dimension}d")


def data(
    problem: Problem, batch: int, seed: int, pool: int = 100_000
) -> Callable[[int], dict[str, np.ndarray]]:
    """``data(step)``: batches of exact samples drawn from a pool."""
    rows = np.asarray(problem.samples(jax.random.key(seed), pool))

    def at(step: int) -> dict[str, np.ndarray]:
        chosen = np.random.default_rng([seed, step]).integers(0, pool, batch)
        return {"image": rows[chosen]}

    return at
