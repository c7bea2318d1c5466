"""Frechet distance between two Gaussians fitted to features.

    F = |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x^{1/2} S_y S_x^{1/2})^{1/2}

is the squared 2-Wasserstein distance between N(m_x, S_x) and N(m_y, S_y) (Dowson and Landau 1982;
with Inception features the FID of Heusel et al. 2017, arXiv 1706.08500, eq. 6). The last trace is
the sum of the singular values of A_x^T A_y for any factors S = A A^T. Taking A from the symmetric
eigen-decomposition, with directions whose eigenvalue is rounding left out, costs no accuracy where
a covariance is singular (fewer samples than dimensions), where a square root of the product S_x S_y
loses half the digits.

Of features X (n, d), centred, a factor is X^T / sqrt(n - 1), or R^T / sqrt(n - 1) of X = Q R, so
that no covariance is needed. Where one set has fewer samples than dimensions A_x^T A_y is X Y^T /
sqrt((n - 1) (m - 1)), of the samples' inner products, with the singular values of the triangular
factor of its QR decomposition: time and memory grow with n d and m d, never with d^2. Blocks of
rows are decomposed one after the other.

Everything is float64 on the host. The distance is the squared one, as is the custom for FID; its
bias falls as 1/n, so only numbers with equal sample sizes compare.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.metrics.features import checked, checked_pair

ROWS = 4096


class Moments(NamedTuple):
    """First and second moments of ``count`` features of dimension d.

    mean: (d,), float64.
    scatter: (d, d), the sum over samples of (x - mean)(x - mean)^T, which merges without
    cancellation.
    """

    __repr__ = short

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance (d, d); ValueError with fewer than two samples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, got {self.count}")
        return self.scatter / (self.count - 1)


def moments(features: ArrayLike) -> Moments:
    """Return moments of features (n, d), n at least 1.

    Args:
        features: (n, d).

    Returns:
        Count, mean and scatter.
    """
    x = checked(features, "features")
    mean = x.mean(axis=0)
    return Moments(len(x), mean, (x - mean).T @ (x - mean))


def merge(a: Moments, b: Moments) -> Moments:
    """Return moments of the union of two disjoint sets of samples (Chan, Golub and LeVeque 1979).

    Args:
        a: moments of one set.
        b: moments of the other.

    Returns:
        Moments of both.

    Raises:
        ValueError: for moments of different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of dimension {a.mean.size} and {b.mean.size} do not merge")
    count, shift = a.count + b.count, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(shift, shift) * (a.count * b.count / count)
    return Moments(count, a.mean + shift * (b.count / count), scatter)


def streamed_moments(batches: Iterable[ArrayLike]) -> Moments:
    """Return moments of features that arrive in batches (n_i, d), none of which is kept.

    Args:
        batches: arrays (n_i, d).

    Returns:
        Count, mean and scatter.

    Raises:
        ValueError: for no batches.
    """
    each = (moments(batch) for batch in batches)
    first = next(each, None)
    if first is None:
        raise ValueError("no batches to take moments of")
    return reduce(merge, each, first)


def frechet_distance(x: Moments | ArrayLike, y: Moments | ArrayLike) -> float:
    """Return the squared Frechet distance between two sets of features, or between their moments.

    ``x`` and ``y`` are :class:`Moments` or features (n, d), at least two of each.

    Args:
        x: :class:`Moments`, or features (n, d), at least two.
        y: likewise, of the same dimension.

    Returns:
        The squared distance, not negative.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium, arXiv 1706.08500, equation 6.
    """
    if not isinstance(x, Moments) and not isinstance(y, Moments):
        return _of_samples(*checked_pair(x, y, least=2))
    a, b = (v if isinstance(v, Moments) else moments(v) for v in (x, y))
    return gaussian_w2_squared(a.mean, a.covariance, b.mean, b.covariance)


def _of_samples(x: np.ndarray, y: np.ndarray) -> float:
    """The distance from factors of the covariances that are made of the samples themselves."""
    few, many = sorted((x, y), key=len)
    apart = few.mean(axis=0) - many.mean(axis=0)
    few, many = few - few.mean(axis=0), many - many.mean(axis=0)
    if len(few) < few.shape[1]:
        core = _triangle(many, few)
    else:
        core = _triangle(few) @ _triangle(many).T
    n, m = len(few) - 1, len(many) - 1
    overlap = np.linalg.svd(core, compute_uv=False).sum() / np.sqrt(n * m)
    bures = np.sum(few**2) / n + np.sum(many**2) / m - 2 * overlap
    return max(0.0, float(np.sum(apart**2) + bures))


def _triangle(rows: np.ndarray, onto: np.ndarray | None = None) -> np.ndarray:
    """R of the QR decomposition of ``rows``, or of their inner products with those of ``onto``."""
    made: np.ndarray | None = None
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS]
        block = block if onto is None else block @ onto.T
        both = block if made is None else np.concatenate([made, block])
        made = np.asarray(np.linalg.qr(both, mode="r"))
    assert made is not None
    return made


def gaussian_w2_squared(
    mean_x: ArrayLike, cov_x: ArrayLike, mean_y: ArrayLike, cov_y: ArrayLike
) -> float:
    """Return the squared 2-Wasserstein distance between N(mean_x, cov_x) and N(mean_y, cov_y).

    Means (d,), covariances (d, d), symmetric and positive semi-definite. Rounding below zero is
    returned as zero.

    Args:
        mean_x: (d,).
        cov_x: (d, d).
        mean_y: (d,).
        cov_y: (d, d).

    Returns:
        The squared distance, not negative.

    Raises:
        ValueError: for other shapes.
    """
    mx, my = (np.asarray(m, np.float64) for m in (mean_x, mean_y))
    cx, cy = (np.asarray(c, np.float64) for c in (cov_x, cov_y))
    if not (mx.shape == my.shape and cx.shape == cy.shape == mx.shape * 2 and mx.ndim == 1):
        raise ValueError(
            "expected means (d,) and covariances (d, d) of one dimension, got "
            f"{mx.shape}, {cx.shape} and {my.shape}, {cy.shape}"
        )
    overlap = np.linalg.svd(_factor(cx, "cov_x").T @ _factor(cy, "cov_y"), compute_uv=False).sum()
    bures = np.trace(cx) + np.trace(cy) - 2 * overlap
    return max(0.0, float(np.sum((mx - my) ** 2) + bures))


def _factor(covariance: np.ndarray, name: str) -> np.ndarray:
    """Return A (d, rank) with A A^T = covariance, eigenvalues at rounding level left out."""
    scale = np.abs(covariance).max(initial=0.0)
    if not np.isfinite(scale) or np.abs(covariance - covariance.T).max(initial=0.0) > 1e-8 * scale:
        raise ValueError(f"{name} must be finite and symmetric")
    values, vectors = np.linalg.eigh(covariance)
    top = values[-1]
    if values[0] < -1e-6 * max(top, 0.0):
        raise ValueError(f"{name} has a negative eigenvalue, {values[0]:.3g} (largest {top:.3g})")
    kept = values > len(values) * np.finfo(np.float64).eps * top
    return vectors[:, kept] * np.sqrt(values[kept])
