"""Null models of data: what a number of the geometry would be without a network.

    gaussian_of(data)                  mean and covariance, or its largest variances only
    isotropic_of(data)                 mean and one variance: every trajectory is straight
    mixture_of_classes(data, labels)   a Gaussian for every class
    finite_data_set(data)              the data themselves: a network that has learned by heart

All are models of :mod:`jaxdiff.exact`, in closed form, over flattened samples;
:func:`as_denoiser` makes the denoiser of one for samples of any shape, to be sampled from the same
noise as the network. :func:`flow_trajectory` is the exact solution of the Gaussian's probability
flow.

    null = as_denoiser(gaussian_of(data))
    beside = jd.trajectory(null, table, start)      # the network's own start

Source: Wang and Vastola, arXiv 2412.09726 (the Gaussian's trajectories beside a network's); Chen
et al., arXiv 2405.11326 (their shapes under these models).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.exact import Empirical, Gaussian, GaussianMixture
from jaxdiff.sampling.checks import check_start
from jaxdiff.sampling.gaussian_start import Flow, LowRank, fit, fit_low_rank, spectrum
from jaxdiff.sampling.sample import Trajectory
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.typing import Array, Cond


def gaussian_of(
    data: ArrayLike, rank: int | None = None, *, floor: float = 1e-4
) -> Gaussian | LowRank:
    """Return the Gaussian with the mean and covariance of data, over flattened samples.

    Args:
        data: (n, *shape), at least two examples, as the denoiser's output looks.
        rank: of the largest variances to keep, the others replaced by their mean; None for all. A
            full covariance costs d^2 numbers, its decomposition d^3 operations.
        floor: added to every variance, relative to their mean.

    Returns:
        :class:`jaxdiff.exact.Gaussian`, or :class:`jaxdiff.sampling.gaussian_start.LowRank`.

    Raises:
        ValueError: for fewer than two examples, numbers that are not finite, or another rank than
            1 to min(n, d) - 1.
    """
    return fit(data, "full", floor) if rank is None else fit_low_rank(data, rank, floor)


def isotropic_of(data: ArrayLike) -> Gaussian:
    """Return the Gaussian with the mean of data and one variance, the mean of all.

    Args:
        data: (n, *shape), at least two examples.

    Returns:
        :class:`jaxdiff.exact.Gaussian`, over flattened samples.

    Raises:
        ValueError: for fewer than two examples or numbers that are not finite.
    """
    return fit(data, "isotropic", floor=0.0)


def mixture_of_classes(
    data: ArrayLike,
    labels: ArrayLike,
    *,
    rank: int | None = None,
    conditional: bool = False,
    floor: float = 1e-4,
) -> GaussianMixture:
    """Return the mixture of a Gaussian for every class, with its mean and covariance.

    Args:
        data: (n, *shape), at least two examples of every class.
        labels: (n,) integers 0, ..., K - 1, none of them left out.
        rank: of the largest variances of a class to keep, the others replaced by their mean; None
            for all. The (K, d, d) axes are stored whole either way.
        conditional: whether the denoiser takes class numbers as its condition. Without one it then
            counts all classes alike; otherwise their weights are their shares of the data.
        floor: added to every variance, relative to the class's mean variance.

    Returns:
        :class:`jaxdiff.exact.GaussianMixture`, over flattened samples.

    Raises:
        ValueError: for labels that do not go with the data, classes of fewer than two examples,
            numbers that are not finite, or another rank than 1 to d - 1.
    """
    examples, classes = np.asarray(data), np.asarray(labels)
    if classes.shape != examples.shape[:1] or classes.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {examples.shape[:1]} integers, one per example; got {classes.dtype} "
            f"of shape {classes.shape}"
        )
    counts = np.bincount(classes) if classes.size and classes.min() >= 0 else np.zeros(1)
    if (counts < 2).any():
        raise ValueError(f"classes are 0, ..., K - 1 with two examples at least; counted: {counts}")
    parts = [_spectrum_of(examples[classes == k], rank, floor) for k in range(len(counts))]
    means, variances, axes = (np.stack(part) for part in zip(*parts, strict=True))
    weights = np.eye(len(counts)) if conditional else counts / counts.sum()
    return GaussianMixture.of_axes(weights, means, variances, axes)


def _spectrum_of(data: np.ndarray, rank: int | None, floor: float) -> tuple[np.ndarray, ...]:
    if not np.isfinite(data).all():
        raise ValueError("data must be finite")
    mean, variances, axes = spectrum(data.reshape(len(data), -1))
    if rank is not None:
        if not 1 <= rank < len(mean):
            raise ValueError(f"rank must be 1 to {len(mean) - 1} for this data; got {rank}")
        variances[rank:] = variances[rank:].mean()
    return mean, variances + floor * variances.mean(), axes


def finite_data_set(data: ArrayLike, chunk: int = 1024) -> Empirical:
    """Return the model of which every sample is one of the data.

    Args:
        data: (n, *shape).
        chunk: examples at a time, in sums over the data.

    Returns:
        :class:`jaxdiff.exact.Empirical`, over flattened samples.

    Raises:
        ValueError: for no data, numbers that are not finite or a chunk below 1.
    """
    examples = data if isinstance(data, np.ndarray) else jnp.asarray(data)
    if examples.ndim < 2:
        raise ValueError(f"data must have shape (n, *shape); got {examples.shape}")
    return Empirical(examples.reshape(len(examples), -1), chunk)


def as_denoiser(model: Any) -> Partial:
    """Return the denoiser D(y, level, cond=None) of a model of flattened samples, for states
    (batch, *shape) with as many numbers.

    Args:
        model: with a ``denoiser``: those of :mod:`jaxdiff.exact` and of this module.

    Returns:
        A pytree: the model's arrays are arguments of what is compiled.
    """
    return Partial(_denoise, model.denoiser)


def _denoise(D: Partial, y: Array, level: Array, cond: Cond = None) -> Array:
    return D(y.reshape(y.shape[0], -1), level, cond).reshape(y.shape)


def flow_trajectory(
    model: Flow, levels: Sequence[float] | np.ndarray | Array, start: Array
) -> Trajectory:
    """Return the exact trajectory of a model whose probability flow has a closed form.

    Args:
        model: :class:`jaxdiff.exact.Gaussian`, or ``LowRank``; over flattened samples.
        levels: (A + 1,), strictly decreasing, the last one perhaps 0.
        start: (batch, *shape) at ``levels[0]``.

    Returns:
        :class:`jaxdiff.Trajectory`, with the denoised output at every state but the last.

    Raises:
        ValueError, TypeError: for levels that are no grid, a start that is no batch of states.

    Source: Wang and Vastola, arXiv 2412.09726.
    """
    knots = jnp.asarray(check_levels(levels), start.dtype)
    check_start(start, None)
    return Trajectory(*_follow(model, knots, start))


@jax.jit
def _follow(model: Any, levels: Array, start: Array) -> tuple[Array, ...]:
    flat = start.reshape(len(start), -1)
    states = jax.lax.map(lambda r: model.flow(flat, levels[0], r), levels)
    outputs = jax.lax.map(lambda pair: model.denoise(*pair), (states[:-1], levels[:-1]))
    shaped = (a.reshape(len(a), *start.shape) for a in (states, outputs))
    states, outputs = shaped
    return states, levels, outputs, levels[:-1]
