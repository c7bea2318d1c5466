"""Reference statistics: mean and covariance of the features of real images, kept in files.

The customary file is an ``.npz`` with ``mu`` (d,) and ``sigma`` (d, d), the unbiased covariance, as
pytorch-fid, EDM and guided-diffusion have them. Written here are also ``count``, how many images
they are of, and, if they are given, the ``features`` (n, d) themselves, of which every metric can
be computed and not only the Frechet distance.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.brief import short
from jaxdiff.files import open_archive, read_array, replacing
from jaxdiff.metrics.features import checked
from jaxdiff.metrics.frechet import Moments, gaussian_w2_squared, moments


class Statistics(NamedTuple):
    """mean: (d,). covariance: (d, d). count: of the images, None where the file does not say.
    features: (n, d), None where the file has none. name: what they are of.
    """

    __repr__ = short

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None
    features: np.ndarray | None = None
    name: str = ""

    @property
    def dimension(self) -> int:
        """Of the features."""
        return len(self.mean)


def statistics(features: ArrayLike, name: str = "") -> Statistics:
    """Return the statistics of features (n, d), at least two of them, and the features.

    Args:
        features: (n, d).
        name: of the feature function.

    Returns:
        Mean, covariance, count and the features.
    """
    x = checked(features, "features", least=2)
    found = moments(x)
    return Statistics(found.mean, found.covariance, len(x), np.asarray(features), name)


def frechet_to(statistics: Statistics, x: Moments | ArrayLike) -> float:
    """Return the squared Frechet distance of features (n, d), or their moments, to statistics.

    Args:
        statistics: of the reference.
        x: features (n, d), or their moments.

    Returns:
        The squared distance, not negative.

    Raises:
        ValueError: for features of another dimension.
    """
    found = x if isinstance(x, Moments) else moments(x)
    if found.mean.shape != statistics.mean.shape:
        raise ValueError(
            f"features of dimension {found.mean.size} do not compare with statistics of dimension "
            f"{statistics.dimension}; both must come from one feature function"
        )
    return gaussian_w2_squared(found.mean, found.covariance, statistics.mean, statistics.covariance)


def write_statistics(
    path: str | os.PathLike[str], found: Statistics, *, features: bool = True
) -> None:
    """Write statistics as an .npz, whole or not at all; with ``features``, those too.

    Args:
        path: of the .npz.
        found: the statistics.
        features: whether the features are written, too.

    Returns:
        None, when the file is written.
    """
    arrays: dict[str, Any] = {"mu": found.mean, "sigma": found.covariance}
    if found.count is not None:
        arrays["count"] = np.int64(found.count)
    if features and found.features is not None:
        arrays["features"] = found.features
    check_statistics_file(path)
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def check_statistics_file(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a file that statistics are not written to."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"statistics are written to an .npz, not {path}")


def is_statistics(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is an .npz with a mean and a covariance."""
    if Path(path).suffix != ".npz" or not Path(path).is_file():
        return False
    with open_archive(path) as archive:
        return {"mu.npy", "sigma.npy"} <= set(archive.namelist())


def read_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read statistics from an .npz.

    Args:
        path: of the .npz.

    Returns:
        The statistics.

    Raises:
        OSError: if there is no such file.
        ValueError: naming it, if it is damaged, or if ``mu`` and ``sigma`` are not the mean and
            covariance of anything.
    """
    with open_archive(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        if missing := {"mu", "sigma"} - names:
            raise ValueError(f"{path} has no {' and no '.join(sorted(missing))}")
        wanted = ("mu", "sigma", "count", "features")
        arrays = {name: read_array(archive, path, name) for name in wanted if name in names}
    features, count = arrays.get("features"), arrays.get("count")
    if features is not None:
        features = checked(features, f"{path}: features", least=2)
    number = None if count is None else _number(count, path)
    return check_statistics(
        Statistics(arrays["mu"], arrays["sigma"], number, features, Path(path).name), path
    )


def check_statistics(found: Statistics, path: str | os.PathLike[str]) -> Statistics:
    """Return statistics in float64; ValueError, naming ``path``, unless they can be of anything."""
    mean, covariance = found.mean, found.covariance
    real = all(np.issubdtype(a.dtype, np.floating) for a in (mean, covariance))
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size) or not real or not mean.size:
        raise ValueError(
            f"{path}: mu and sigma must be floats of shapes (d,) and (d, d), not {mean.dtype}"
            f"{list(mean.shape)} and {covariance.dtype}{list(covariance.shape)}"
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path}: mu or sigma is not finite")
    largest = abs(covariance).max()
    if abs(covariance - covariance.T).max() > 1e-5 * largest or np.diag(covariance).min() < 0:
        raise ValueError(f"{path}: sigma is not a covariance: not symmetric, or with a negative")
    if found.features is not None and (given := found.features.shape[1]) != mean.size:
        raise ValueError(f"{path}: features of dimension {given}, mu of dimension {mean.size}")
    return found._replace(mean=mean, covariance=(covariance + covariance.T) / 2)


def _number(count: np.ndarray, path: str | os.PathLike[str]) -> int:
    if count.shape != () or not np.issubdtype(count.dtype, np.integer) or count < 2:
        raise ValueError(f"{path}: count must be a number of images, not {count!r:.60}")
    return int(count)
