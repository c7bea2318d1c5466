"""Exact properties of samples besides their distance: shares, means and widths.

Of a mixture a sample belongs to the nearest mean. Shares and covariances of the samples that belong
to each are compared with those of very many exact ones, so that what falls to the wrong mean
cancels.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxdiff.app.problems import Problem
from jaxdiff.exact import Gaussian
from jaxdiff.typing import Key

MANY = 262_144  # exact samples


class Modes(NamedTuple):
    """Of every mode of a mixture (K, d): its mean, the share of samples that is nearest to it, and
    the Cholesky factor of these samples' covariance (K, d, d).
    """

    means: np.ndarray
    shares: np.ndarray
    roots: np.ndarray

    def errors(self, x: np.ndarray) -> dict[str, float]:
        """Return the largest relative error of a share, "modes"; and the largest, over modes, of
        the root mean square relative error of standard deviations along the axes of their
        covariance where the true one is round, "widths": half the true width is 0.5, no width is 1.
        """
        nearest, shares = _nearest(x, self.means)
        each = []
        for k, root in enumerate(self.roots):
            covariance = _covariance(x[nearest == k], len(root))
            whitened = np.linalg.solve(root, np.linalg.solve(root, covariance).T)
            variances = np.maximum(np.linalg.eigvalsh((whitened + whitened.T) / 2), 0.0)
            each.append(np.sqrt(np.mean((np.sqrt(variances) - 1.0) ** 2)))
        return {
            "modes": float(np.max(np.abs(shares / self.shares - 1.0))), "widths": float(max(each))
        }  # fmt: skip


def modes_of(problem: Problem, key: Key) -> Modes | None:
    """Return the modes of a mixture as exact samples show them; None of what has one."""
    if len(problem.modes) < 2:
        return None
    x = np.asarray(problem.samples(key, MANY), np.float64)
    nearest, shares = _nearest(x, problem.modes)
    each = [_covariance(x[nearest == k], problem.dimension) for k in range(len(problem.modes))]
    return Modes(problem.modes, shares, np.linalg.cholesky(np.stack(each)))


def errors(x: np.ndarray, problem: Problem, modes: Modes | None) -> dict[str, float]:
    """Of a mixture those of its modes.

    Of a Gaussian "mean", the error's length relative to the whole standard deviation, and "std",
    the root mean square over the principal axes of a standard deviation's relative error.
    """
    if modes is not None:
        return modes.errors(np.asarray(x, np.float64))
    model = problem.model
    if not isinstance(model, Gaussian):
        return {}
    model = jax.tree.map(np.asarray, model)
    apart = x - model.mean
    along = apart if model.axes is None else apart @ model.axes
    deviations = np.sqrt(model.variances)
    return {
        "mean": float(np.linalg.norm(apart.mean(axis=0)) / np.linalg.norm(deviations)),
        "std": float(np.sqrt(np.mean((along.std(axis=0) / deviations - 1.0) ** 2))),
    }


def _nearest(x: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean that is nearest to each sample, and the share of samples of each."""
    nearest = ((means**2).sum(axis=1) - 2 * x @ means.T).argmin(axis=1)
    return nearest, np.bincount(nearest, minlength=len(means)) / len(x)


def _covariance(x: np.ndarray, dimension: int) -> np.ndarray:
    """Of no samples, zero."""
    if not len(x):
        return np.zeros((dimension, dimension))
    apart = x - x.mean(axis=0)
    return apart.T @ apart / len(x)
