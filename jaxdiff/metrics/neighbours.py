"""Precision, recall, density, coverage, and distances to the nearest training sample.

B_k(y) is the open ball around y whose radius is the distance to the k-th nearest other sample of
its own set.

    precision   share of generated x inside some B_k(y)
    recall      share of reference y inside some B_k(x)
    density     mean over x of #{y : x in B_k(y)} / k
    coverage    share of reference y whose B_k(y) holds some x

Precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991; density and coverage: Naeem et al.
2020, arXiv 2002.09797. All depend on the sample sizes. Float64 on the host, distances by blocks:
memory grows with n + m, not n m.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.metrics.features import checked, checked_pair

ROWS = 512
COLUMNS = 4096
ROUNDING = 1e-13


class PRDC(NamedTuple):
    """Precision, recall, density (may exceed 1) and coverage."""

    precision: float
    recall: float
    density: float
    coverage: float


def squared_radii(y: ArrayLike, k: int = 5, progress: bool = False) -> np.ndarray:
    """Return squared distances (m,) of features (m, d) to their k-th nearest other one.

    Of a reference that many sets are compared with they are needed once: they are the dear part,
    m^2 distances.

    Args:
        y: reference features, (m, d).
        k: number of neighbours.
        progress: show a bar.

    Returns:
        (m,), in squared units of the features.

    Raises:
        ValueError: for a k below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    b = checked(y, "reference features", least=k + 1)
    return _squared_radii(b - b.mean(axis=0), k, progress)


def prdc(
    x: ArrayLike,
    y: ArrayLike,
    k: int = 5,
    progress: bool = False,
    *,
    radii: ArrayLike | None = None,
) -> PRDC:
    """Compare generated features (n, d) with reference features (m, d) by their neighbourhoods.

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        k: number of neighbours.
        progress: show a bar.
        radii: :func:`squared_radii` of ``y`` and ``k``, if they are known.

    Returns:
        Precision, recall, density and coverage.

    Source: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative
    Models, arXiv 1904.06991; Naeem et al., Reliable Fidelity and Diversity Metrics for Generative
    Models, arXiv 2002.09797.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    a, b = checked_pair(x, y)
    if min(len(a), len(b)) <= k:
        raise ValueError(
            f"k={k} neighbours need more than {k} samples in both sets, got {len(a)} generated "
            f"and {len(b)} reference"
        )
    a, b = a - b.mean(axis=0), b - b.mean(axis=0)  # distances are formed from squared norms
    radii_a = _squared_radii(a, k, progress)
    radii_b = _squared_radii(b, k, progress) if radii is None else np.asarray(radii, np.float64)
    if radii_b.shape != (len(b),):
        raise ValueError(f"{len(b)} reference samples have {len(b)} radii, not {radii_b.shape}")
    hits, recalled, covered = np.zeros(len(a)), np.zeros(len(b), bool), np.zeros(len(b), bool)
    # a distance equal to the radius but for rounding is not inside
    for rows, squared in _blocks(a, b, progress, ROUNDING):
        inside = squared < radii_b[None]
        hits[rows] = inside.sum(axis=1)
        covered |= inside.any(axis=0)
        recalled |= (squared < radii_a[rows, None]).any(axis=0)
    shares = (hits > 0).mean(), recalled.mean(), hits.mean() / k, covered.mean()
    return PRDC(*map(float, shares))


class Nearest(NamedTuple):
    """Euclidean distance (n,) to the nearest reference sample, and its index (n,)."""

    __repr__ = short

    distance: np.ndarray
    index: np.ndarray


def nearest_distances(x: ArrayLike, y: ArrayLike, progress: bool = False) -> Nearest:
    """Return the distance of every x to its nearest y: the check for copied training images.

    ``x`` (n, ...) and ``y`` (m, ...) are features or images, uint8 or float, of one scale; a few
    blocks of them at a time are held in float64. Samples copy the training set where their
    distances fall below those that held-out real images have to it. The neighbour is found from
    inner products, its distance computed from the difference: exactly zero for a copy.

    Args:
        x: features or images, (n, ...).
        y: features or images, (m, ...), of one size and scale with x.
        progress: show a bar.

    Returns:
        Distances (n,), and the indices of the neighbours.

    Raises:
        ValueError: for samples of different sizes or scales, or with NaN or infinity.
    """
    a, b = np.asarray(x), np.asarray(y)
    if not a.size or not b.size or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"need samples of one size on both sides, got {a.shape} and {b.shape}")
    if (a.dtype.kind == "f") != (b.dtype.kind == "f"):
        raise ValueError(f"need samples of one scale, got {a.dtype} and {b.dtype}")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    for name, values in (("generated", a), ("reference", b)):
        if not all(
            np.isfinite(values[i : i + COLUMNS]).all() for i in range(0, len(values), COLUMNS)
        ):
            raise ValueError(f"{name} samples contain NaN or infinity")
    parts = [_nearest(rows, b) for rows in _row_blocks(a, progress, "nearest")]
    return Nearest(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _nearest(rows: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = rows.astype(np.float64)
    best, index = np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    for start in range(0, len(y), COLUMNS):
        squared = _squared(x, y[start : start + COLUMNS].astype(np.float64))
        at = squared.argmin(axis=1)
        closer = squared[np.arange(len(x)), at] < best
        index[closer] = start + at[closer]
        best = np.minimum(best, squared.min(axis=1))
    return np.linalg.norm(x - y[index].astype(np.float64), axis=1), index


def _squared(a: np.ndarray, b: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """Squared distances (n, m), raised by ``slack`` times the squared norms they come from."""
    norms = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None]
    return norms * (1 + slack) - 2 * a @ b.T


def _squared_radii(a: np.ndarray, k: int, progress: bool) -> np.ndarray:
    # sorted position 0 is the sample itself
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in _blocks(a, a, progress)])


def _blocks(
    a: np.ndarray, b: np.ndarray, progress: bool, slack: float = 0.0
) -> Iterator[tuple[slice, np.ndarray]]:
    start = 0
    for rows in _row_blocks(a, progress, "neighbours"):
        yield slice(start, start + len(rows)), _squared(rows, b, slack)
        start += len(rows)


def _row_blocks(a: np.ndarray, progress: bool, what: str) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    for start in tqdm(range(0, len(a), ROWS), disable=not progress, desc=what, leave=False):
        yield a[start : start + ROWS]
