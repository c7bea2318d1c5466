r"""Principal components of trajectories: the subspace they lie in, and their picture in it.

Of n points p_i, with or without their mean m taken off, X = U S V^T has the points as rows: the
columns of V are the components, S_k^2/n the variances along them, S_k^2/sum S^2 the share of each.

What is called "the trajectories lie in three dimensions" depends on whose components they are. The
states of one trajectory nearly lie in a plane; those of many, pooled, do not, as every trajectory
has a plane of its own. Of one trajectory (:func:`shares_per_sample`) and of all pooled
(:func:`principal_components`, :func:`streamed_components`) are different numbers, raw or of the
chord's complement (:func:`jaxdiff.analysis.trajectory.chord_complement`).

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, section 3; Chen et al., Geometric regularity in deterministic sampling of
diffusion-based generative models, arXiv 2506.10177; Zhou et al., arXiv 2312.00094, section 3
(error of a reconstruction by k components).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxdiff.analysis.points import compiled, divide, floating, lengths, vectors
from jaxdiff.analysis.trajectory import chord_complement
from jaxdiff.arrays import einsum
from jaxdiff.brief import short
from jaxdiff.typing import Array


class Components(NamedTuple):
    """Principal components of points.

    mean: (d,), 0 where it was not taken off. axes: (k, d), orthonormal rows, the first with the
    largest variance. variances: (k,), along them. total: (), the sum of all d variances.
    """

    __repr__ = short

    mean: Array
    axes: Array
    variances: Array
    total: Array

    @property
    def shares(self) -> Array:
        """Return the share (k,) of each component in the whole variance."""
        return divide(self.variances, self.total * jnp.ones_like(self.variances))


@compiled("count", "centred")
def principal_components(
    points: Float[Array, "*points d"], count: int, *, centred: bool = True
) -> Components:
    """Return the first principal components of points pooled over all axes but the last.

    Args:
        points: (..., d); for states (points, batch, *shape) reshape to (-1, d).
        count: how many components, 1 to min(n, d).
        centred: whether their mean is taken off.

    Returns:
        :class:`Components`, signs fixed so that the largest number of an axis is positive.

    Raises:
        ValueError, TypeError: for another number of components, or points that are none.

    Memory is that of the points and of a square matrix of the smaller of n and d.
    """
    points = floating("points", points)
    if points.ndim < 2:
        raise ValueError(f"points must have shape (..., d); theirs is {points.shape}")
    flat = points.reshape(-1, points.shape[-1])
    _check_count(count, *flat.shape)
    mean = jnp.mean(flat, axis=0) if centred else jnp.zeros_like(flat[0])
    rows = flat - mean[None]
    if rows.shape[0] >= rows.shape[1]:
        return _of_covariance(mean, einsum("ni,nj->ij", rows, rows) / len(rows), count)
    _, values, axes = jnp.linalg.svd(rows, full_matrices=False)
    variances = values**2 / len(rows)
    return Components(mean, _signed(axes[:count]), variances[:count], jnp.sum(variances))


def streamed_components(
    blocks: Iterable[Float[Array, "points batch *shape"]],
    count: int,
    *,
    complement: bool = False,
    centred: bool = True,
) -> Components:
    """Return the first principal components of the states of many trajectories, block by block.

    Memory is that of one block and of a (d, d) matrix, whatever the number of trajectories.

    Args:
        blocks: trajectories (points, batch, *shape), some at a time.
        count: how many components, 1 to d.
        complement: of what is left of each trajectory without its chord
            (:func:`jaxdiff.analysis.trajectory.chord_complement`).
        centred: whether the mean of all points is taken off.

    Returns:
        :class:`Components`, in float64 where JAX has it: products within a block are of the
        block's dtype, and added up in float64.

    Raises:
        ValueError: for no blocks, blocks of samples of several shapes, or numbers that are not
            finite, which would spoil what is pooled.
    """
    number, first, second = 0, np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        rows = vectors("blocks", chord_complement(block) if complement else block)
        rows = rows.reshape(-1, rows.shape[-1])
        if number and rows.shape[1] != len(first):
            raise ValueError(f"blocks have samples of {len(first)} and of {rows.shape[1]} numbers")
        if not number:
            first, second = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
            shift = np.asarray(rows[0])  # near the points: no cancellation
        apart = np.asarray(rows) - shift
        if not np.isfinite(apart).all():
            raise ValueError("trajectories with NaN or infinity have no principal components")
        number += len(apart)
        first += apart.sum(0, dtype=np.float64)
        second += apart.T @ apart
    if not number:
        raise ValueError("there are no blocks of trajectories")
    _check_count(count, number, len(first))
    mean = first / number
    covariance = second / number - np.outer(mean, mean)
    if not centred:
        whole = shift + mean
        covariance += np.outer(whole, whole)
    mean = shift + mean if centred else np.zeros_like(mean)
    variances, axes = _largest(covariance, count)
    return Components(
        jnp.asarray(mean), _signed(jnp.asarray(axes.T)), jnp.asarray(variances),
        jnp.asarray(np.trace(covariance)),
    )  # fmt: skip


def _largest(covariance: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues (count,) and eigenvectors (d, count): by Lanczos iteration
    where they are few, which costs d^2 and not d^3.
    """
    if 20 * count < len(covariance):
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).normal(size=len(covariance))
        values, axes = eigsh(covariance, count, v0=start)
        order = np.argsort(values)[::-1]
    else:
        values, axes = np.linalg.eigh(covariance)
        order = np.argsort(values)[::-1][:count]
    return np.maximum(values[order], 0), axes[:, order]


@compiled("count")
def _of_covariance(mean: Array, covariance: Array, count: int) -> Components:
    variances, axes = jnp.linalg.eigh(covariance)
    variances = jnp.maximum(variances[::-1], 0)  # rounding
    return Components(
        mean, _signed(axes[:, ::-1][:, :count].T), variances[:count], jnp.trace(covariance)
    )


def _signed(axes: Array) -> Array:
    largest = jnp.take_along_axis(axes, jnp.argmax(jnp.abs(axes), axis=1)[:, None], axis=1)
    return axes * jnp.where(largest < 0, -1, 1).astype(axes.dtype)


def _check_count(count: int, number: int, dimension: int) -> None:
    if not 1 <= count <= min(number, dimension):
        raise ValueError(
            f"{number} points of {dimension} numbers have 1 to {min(number, dimension)} "
            f"components, not {count}"
        )


@compiled("complement", "centred")
def shares_per_sample(
    points: Float[Array, "points batch *shape"],
    *,
    complement: bool = False,
    centred: bool = True,
) -> Float[Array, "batch components"]:
    """Return the shares of the variance of each trajectory's own principal components.

    Args:
        points: (points, batch, *shape), at least two points.
        complement: without the chord.
        centred: whether each trajectory's mean is taken off.

    Returns:
        (batch, min(points, d)), decreasing; all 0 where nothing varies, as in the complement of a
        straight line.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Chen et al., arXiv 2405.11326, section 3.
    """
    values = decomposed(points, complement, centred)[1]
    return divide(values**2, jnp.sum(values**2, axis=1, keepdims=True))


def decomposed(points: Array, complement: bool, centred: bool) -> tuple[Array, Array]:
    """Return the coordinates (batch, points, k) of each trajectory along its own components, and
    the singular values (batch, k), k = min(points, d).
    """
    rows = vectors("points", chord_complement(points) if complement else points)
    rows = jnp.moveaxis(rows, 1, 0)
    rows = rows - jnp.mean(rows, axis=1, keepdims=True) if centred else rows
    left, values, _ = jnp.linalg.svd(rows, full_matrices=False)
    return left * values[:, None], values


@compiled()
def reconstruction_error(
    points: Float[Array, "points batch *shape"], components: Components
) -> Float[Array, "k points batch"]:
    """Return the relative error of each point reconstructed by the first 1, ..., k components.

    It is |x - m - sum_{j <= k} <x - m, v_j> v_j| / |x - m|.

    Args:
        points: (points, batch, *shape).
        components: k of them, pooled, of these or of other trajectories.

    Returns:
        (k, points, batch); 0 where the point is the mean.

    Raises:
        ValueError, TypeError: for another shape or dtype.

    Source: Zhou et al., arXiv 2312.00094, section 3.
    """
    rest = vectors("points", points, least=1)
    if rest.shape[-1] != components.axes.shape[1]:
        raise ValueError(
            f"components of {components.axes.shape[1]} numbers do not go with points of "
            f"{rest.shape[-1]}"
        )
    rest = rest - components.mean.astype(rest.dtype)[None, None]
    size, errors = lengths(rest), []
    for axis in components.axes.astype(rest.dtype):
        rest = rest - jnp.sum(rest * axis[None, None], axis=2, keepdims=True) * axis[None, None]
        errors.append(divide(lengths(rest), size))
    return jnp.stack(errors)
