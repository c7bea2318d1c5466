"""A Gaussian whose trajectories, outputs and norms have formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.exact import Gaussian
from jaxdiff.sampling.sample import Trajectory

LEVELS = np.array([20.0, 8.0, 3.0, 1.0, 0.3, 0.1])


class Known:
    """N(m, diag(l)) with the exact solutions of four starts at LEVELS, in NumPy."""

    def __init__(self, mean, variances):
        rng = np.random.default_rng(5)
        self.mean, self.variances = np.asarray(mean), np.asarray(variances)
        self.model = Gaussian(self.mean, self.variances)
        self.levels = LEVELS
        s = LEVELS[:, None, None]
        start = self.mean + LEVELS[0] * rng.normal(size=(4, len(self.mean)))
        grow = np.sqrt((self.variances + s**2) / (self.variances + LEVELS[0] ** 2))
        self.states = self.mean + grow * (start - self.mean)
        apart = self.states - self.mean
        self.denoised = self.mean + self.variances / (self.variances + s**2) * apart
        self.eps = s * apart / (self.variances + s**2)
        self.second = self.variances * apart / (self.variances + s**2) ** 2  # x''
        self.path = Trajectory(
            jnp.asarray(self.states),
            jnp.asarray(LEVELS),
            jnp.asarray(self.denoised[:-1]),
            jnp.asarray(LEVELS[:-1]),
        )


@pytest.fixture(scope="session")
def gaussian():
    return Known([0.3, -0.2, 0.0, 0.5, 0.1], [4.0, 1.0, 0.5, 0.1, 0.02])


@pytest.fixture(scope="session")
def isotropic():
    return Known([0.3, -0.2, 0.0, 0.5, 0.1], [0.7] * 5)
