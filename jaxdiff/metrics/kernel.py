"""Maximum mean discrepancy and the kernel distance KID.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   x, x' generated, y, y' reference, independent.

The unbiased estimate leaves i = j out of the first two means (Gretton et al. 2012, eq. 3), so it
can be negative and is zero on average for equal distributions. KID is that estimate with the cubic
kernel (x.y/d + 1)^3, averaged over random subsets (Binkowski et al. 2018, arXiv 1801.01401). Unlike
the Frechet distance it is unbiased at any sample size. Float64 on the host; kernel matrices are
summed by blocks of rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.metrics.features import checked, checked_pair

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
ROWS = 1024


def polynomial(degree: int = 3, gamma: float | None = None, constant: float = 1.0) -> Kernel:
    """Return k(x, y) = (gamma x.y + constant)^degree; ``gamma`` is 1/d unless given.

    Args:
        degree: of the polynomial.
        gamma: factor of the inner product; 1/d by default.
        constant: added to it.

    Returns:
        ``kernel(x, y)``, the kernel matrix.

    Raises:
        ValueError: for a degree that is no whole number from 1 on, a gamma that is not positive or
            a negative constant, which make no kernel that compares.
    """
    if degree != int(degree) or degree < 1:
        raise ValueError(f"degree is a whole number, at least 1, not {degree}")
    if not (gamma is None or 0 < gamma < float("inf")) or not 0 <= constant < float("inf"):
        raise ValueError(f"gamma must be positive, constant not negative: {gamma}, {constant}")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T * (1 / x.shape[1] if gamma is None else gamma) + constant) ** degree

    return kernel


def rbf(bandwidth: float) -> Kernel:
    """Return k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
        bandwidth: positive.

    Returns:
        ``kernel(x, y)``, the kernel matrix.

    Raises:
        ValueError: for a bandwidth that is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
        return np.exp(-np.maximum(squared, 0) / (2 * bandwidth**2))

    return kernel


def median_bandwidth(x: ArrayLike, y: ArrayLike, max_samples: int = 1000) -> float:
    """Return the median distance between samples, the median heuristic for a bandwidth, from at
    most ``max_samples`` of each set.

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        max_samples: of each set, the first so many.

    Returns:
        The distance, in units of the features.
    """
    from scipy.spatial.distance import pdist

    a, b = checked_pair(x, y, least=2)
    return float(np.median(pdist(np.concatenate([a[:max_samples], b[:max_samples]]))))


def mmd2(
    x: ArrayLike, y: ArrayLike, kernel: Kernel | None = None, *, within: float | None = None
) -> float:
    """Return an unbiased estimate of the squared MMD between features (n, d) and (m, d).

    ``kernel`` maps arrays (a, d) and (b, d) to the kernel matrix (a, b); the cubic one unless
    given. ``within``: :func:`mean_kernel` of ``y``, if it is known.

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        kernel: arrays (a, d) and (b, d) to the kernel matrix (a, b); the cubic one unless given.
        within: :func:`mean_kernel` of ``y``, if it is known.

    Returns:
        The estimate, which may be negative.

    Source: Gretton et al., A Kernel Two-Sample Test, Journal of Machine Learning Research 13
    (2012), lemma 6.
    """
    a, b = checked_pair(x, y, least=2)
    k = kernel or polynomial()
    cross = _total(a, b, k) / (len(a) * len(b))
    own = _mean_off_diagonal(b, k) if within is None else within
    return _mean_off_diagonal(a, k) + own - 2 * cross


def mean_kernel(y: ArrayLike, kernel: Kernel | None = None) -> float:
    """Return the mean of k(y, y') over all pairs of different samples of features (m, d): the term
    of :func:`mmd2` that a reference which many sets are compared with needs once.

    Args:
        y: reference features, (m, d).
        kernel: as for :func:`mmd2`.

    Returns:
        The mean.
    """
    return _mean_off_diagonal(checked(y, "reference features", least=2), kernel or polynomial())


class KID(NamedTuple):
    """Mean and standard deviation over subsets of the squared MMD, and its value on each."""

    __repr__ = short

    mean: float
    std: float
    per_subset: np.ndarray


def kid_indices(
    n: int, m: int, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the generated and of the reference features in each subset.

    Two arrays (subsets, size); no sample occurs twice in a subset.

    Args:
        n: number of generated samples.
        m: number of reference samples.
        subsets: their number.
        size: samples of each set in a subset.
        seed: of the random draw.

    Returns:
        Two integer arrays (subsets, size).

    Raises:
        ValueError: where a subset is larger than a set.
    """
    if not 2 <= size <= min(n, m) or subsets < 1:
        raise ValueError(
            f"need at least one KID subset (got {subsets}) of 2 to {min(n, m)} samples "
            f"(got {size}) for {n} generated and {m} reference samples"
        )
    rng = np.random.default_rng(seed)
    draws = [(rng.permutation(n)[:size], rng.permutation(m)[:size]) for _ in range(subsets)]
    return np.stack([d[0] for d in draws]), np.stack([d[1] for d in draws])


def kid(
    x: ArrayLike,
    y: ArrayLike,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
    *,
    indices: tuple[ArrayLike, ArrayLike] | None = None,
    progress: bool = False,
) -> KID:
    """Return the kernel distance between features (n, d) and (m, d) over random subsets.

    The subsets come from ``seed`` (see :func:`kid_indices`), or are given as ``indices``, two
    integer arrays of shape (subsets, size).

    Args:
        x: generated features, (n, d).
        y: reference features, (m, d).
        subsets: their number.
        size: samples of each set in a subset.
        seed: of the subsets.
        indices: the subsets themselves, two integer arrays (subsets, size).
        progress: show a bar.

    Returns:
        Mean and standard deviation over subsets, and the value on each.

    Raises:
        ValueError: where a subset is larger than a set of samples.

    Source: Binkowski et al., Demystifying MMD GANs, arXiv 1801.01401.
    """
    from tqdm import tqdm

    a, b = checked_pair(x, y, least=2)
    rows = kid_indices(len(a), len(b), subsets, size, seed) if indices is None else indices
    pairs = list(zip(np.asarray(rows[0]), np.asarray(rows[1]), strict=True))
    each = [mmd2(a[i], b[j]) for i, j in tqdm(pairs, disable=not progress, desc="KID")]
    return KID(float(np.mean(each)), float(np.std(each)), np.array(each))


def _total(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> float:
    return float(sum(kernel(a[i : i + ROWS], b).sum() for i in range(0, len(a), ROWS)))


def _mean_off_diagonal(a: np.ndarray, kernel: Kernel) -> float:
    blocks = ((kernel(a[i : i + ROWS], a), i) for i in range(0, len(a), ROWS))
    total = sum(block.sum() - np.trace(block, offset=i) for block, i in blocks)
    return float(total) / (len(a) * (len(a) - 1))
