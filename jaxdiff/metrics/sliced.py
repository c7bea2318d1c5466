"""Wasserstein distances: along random lines, and exactly for small samples.

In one dimension W_p^p = integral_0^1 |F^{-1}(u) - G^{-1}(u)|^p du, where the quantile functions of
n and m samples are steps at multiples of 1/n and 1/m: on the merged grid the integral is a finite
sum, exact for n != m too.

    SW_p = (mean over unit vectors v of W_p(v.X, v.Y)^p)^{1/p},   max-SW_p = max_v W_p(v.X, v.Y)

(Bonneel et al. 2015; Deshpande et al. 2019, arXiv 1904.05877.) The maximum here is over the given
directions, so it bounds the maximum over all of them from below. In d dimensions W_p between
samples is an assignment problem.
"""

from math import lcm

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.metrics.features import checked_pair

BLOCK = 64
LARGEST_ASSIGNMENT = 4096


def random_directions(dimension: int, count: int = 128, seed: int = 0) -> np.ndarray:
    """Return unit vectors drawn uniformly on the sphere, as columns of an array (dimension, count).

    Args:
        dimension: d.
        count: number of directions.
        seed: of the random draw.

    Returns:
        (dimension, count), columns of length 1.

    Raises:
        ValueError: for no directions.
    """
    if count < 1:
        raise ValueError(f"there must be a direction at least, not {count}")
    v = np.random.default_rng(seed).standard_normal((dimension, count))
    return v / np.linalg.norm(v, axis=0)


def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    p: float = 2,
    *,
    directions: ArrayLike | None = None,
    count: int = 128,
    seed: int = 0,
) -> float:
    """Return SW_p between features (n, d) and (m, d).

    The mean is over the columns of ``directions`` (d, count), or over ``count`` drawn from
    ``seed``.

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        p: at least 1, finite.
        directions: columns (d, count); drawn if None.
        count: number of lines that are drawn.
        seed: of the random draw.

    Returns:
        The distance, in units of the features.
    """
    return float(np.mean(_powers(x, y, p, directions, count, seed)) ** (1 / p))


def max_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    p: float = 2,
    *,
    directions: ArrayLike | None = None,
    count: int = 128,
    seed: int = 0,
) -> float:
    """Return the largest W_p between features (n, d) and (m, d) along a line.

    The lines are the columns of ``directions`` (d, count), or ``count`` drawn from ``seed``.

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        p: at least 1.
        directions: columns (d, count); drawn if None.
        count: number of lines that are drawn.
        seed: of the random draw.

    Returns:
        The distance, in units of the features.
    """
    return float(np.max(_powers(x, y, p, directions, count, seed)) ** (1 / p))


def wasserstein_1d_power(x: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    """W_p^p of samples (n, c) and (m, c), column by column."""
    n, m = len(x), len(y)
    # each column contiguous: sorting along a stride takes several times as long
    a, b = np.sort(np.ascontiguousarray(x.T)), np.sort(np.ascontiguousarray(y.T))
    if n == m:
        return (np.abs(a - b) ** p).mean(axis=1)
    # jumps of both quantile functions as whole multiples of 1/(n m)
    jumps = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    rows, widths = jumps[:-1], np.diff(jumps) / (n * m)
    return np.abs(a[:, rows // m] - b[:, rows // n]) ** p @ widths


def exact_wasserstein(x: ArrayLike, y: ArrayLike, p: float = 2) -> float:
    """Return W_p with Euclidean cost between small samples (n, d) and (m, d), by optimal
    assignment.

    For n != m every sample is repeated until both sides have lcm(n, m) of them, which leaves the
    distance as it is.

    Args:
        x: samples, (n, d).
        y: samples, (m, d).
        p: at least 1.

    Returns:
        W_p, in units of the samples.

    Raises:
        ValueError: if that is more than 4096.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    a, b = checked_pair(x, y)
    size = lcm(len(a), len(b))
    if not 1 <= p < float("inf") or size > LARGEST_ASSIGNMENT:
        raise ValueError(
            f"need p >= 1 (got {p}) and sample sizes whose least common multiple is at most "
            f"{LARGEST_ASSIGNMENT}, got {len(a)} and {len(b)}; take equal, smaller samples"
        )
    cost = cdist(a, b) ** p
    cost = cost.repeat(size // len(a), axis=0).repeat(size // len(b), axis=1)
    return float(cost[linear_sum_assignment(cost)].mean() ** (1 / p))


def _powers(
    x: ArrayLike, y: ArrayLike, p: float, directions: ArrayLike | None, count: int, seed: int
) -> np.ndarray:
    a, b = checked_pair(x, y)
    if not 1 <= p < float("inf"):
        raise ValueError(f"the order p must be at least 1, and finite; got {p}")
    if directions is None:
        directions = random_directions(a.shape[1], count, seed)
    v = np.asarray(directions, np.float64)
    if v.ndim != 2 or v.shape[0] != a.shape[1] or not v.size:
        raise ValueError(f"directions must have shape ({a.shape[1]}, count), got {v.shape}")
    parts = (v[:, i : i + BLOCK] for i in range(0, v.shape[1], BLOCK))
    return np.concatenate([wasserstein_1d_power(a @ part, b @ part, p) for part in parts])
