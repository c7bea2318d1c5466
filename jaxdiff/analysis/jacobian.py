r"""The Jacobian J = dD/dy of a denoiser: is it symmetric, how steep is it, how much does it keep.

For an optimal denoiser J = Cov[x0 | y]/s^2, symmetric and not negative. A network's need not be:

    asymmetry        |J - J^T|/|J|, 0 for every exact denoiser (Frobenius norms)
    singular values  the largest is the local Lipschitz constant of D
    trace            sum l/(l + s^2) for N(m, S) with eigenvalues l: the dimensions that D keeps

By products J v (``jax.jvp``) and J^T v (``jax.vjp``) with probes v, E v v^T = I:

    |J - J^T|^2 = E |(J - J^T) v|^2,    |J|^2 = E |J v|^2,    tr J = E v^T J v,

exact where v runs through the d unit vectors; and by power iteration of J^T J with a block of
orthonormal vectors. All samples at once, as none depends on another.

Sources: Hutchinson 1990, doi 10.1080/03610919008812866 (trace); Golub and Van Loan, Matrix
computations, section 8.2 (orthogonal iteration); Chen et al., arXiv 2305.19947 (the Jacobian of an
optimal denoiser).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.analysis.points import divide, positive_level
from jaxdiff.arrays import check_cond, einsum
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import sample_keys
from jaxdiff.sampling.checks import check_start, check_typed
from jaxdiff.sampling.likelihood import jacobian_diagonal, probe_vectors
from jaxdiff.sampling.run import evaluate
from jaxdiff.typing import Array, Cond, Denoiser, Key, PerSample, States


class Asymmetry(NamedTuple):
    """Of dD/dy, each (batch,): |J - J^T|, |J|, and their ratio, in Frobenius norms."""

    __repr__ = short

    difference: Array
    size: Array
    ratio: Array


def _products(
    D: Partial, y: Array, level: Array, cond: Cond
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return v -> J v and v -> J^T v, sample by sample."""
    denoise = lambda y: evaluate(D, y, level, None, cond)  # noqa: E731
    _, forward = jax.linearize(denoise, y)
    _, back = jax.vjp(denoise, y)
    return forward, lambda v: back(v)[0]


def _checked(denoiser: Denoiser, y: Array, level: Any, cond: Cond) -> tuple[Partial, Array]:
    check_start(y, None)
    check_cond(cond, y.shape[0])
    return as_partial(denoiser), positive_level(level, y)


def _probes(y: Array, probes: int | None, key: Key | None, index: Array | None) -> Array:
    if probes is None and (key is not None or index is not None):
        raise ValueError("key= and index= are for random probes: with probes=None none are drawn")
    return probe_vectors(y, probes, "rademacher", key, index)


def jacobian_asymmetry(
    denoiser: Denoiser,
    y: States,
    level: Array | float,
    cond: Cond = None,
    *,
    probes: int | None = None,
    key: Key | None = None,
    index: Array | None = None,
) -> Asymmetry:
    """Return how far the Jacobian of a denoiser is from symmetric.

    Args:
        denoiser: ``D(y, level, cond)``.
        y: (batch, *shape).
        level: positive, a scalar or (batch,).
        cond: handed to the denoiser.
        probes: random ones for each sample, which estimate the squares without bias; None for the d
            unit vectors, exact.
        key: typed key of the random ones, each sample's own.
        index: (batch,) numbers of the samples; 0, 1, ... by default.

    Returns:
        :class:`Asymmetry`; the ratio is 0 where the Jacobian is.

    Raises:
        ValueError, TypeError: for arguments that do not go together.

    Source: as of the module.
    """
    D, level = _checked(denoiser, y, level, cond)
    vectors = _probes(y, probes, key, index)
    difference, size = _asymmetry(D, y, level, cond, vectors)
    return Asymmetry(difference, size, divide(difference, size))


@jax.jit
def _asymmetry(
    D: Partial, y: Array, level: Array, cond: Cond, vectors: Array
) -> tuple[Array, Array]:
    forward, back = _products(D, y, level, cond)

    def one(v: Array) -> tuple[Array, Array]:
        v = jnp.broadcast_to(v, y.shape)
        along = forward(v)
        return _squares(along - back(v)), _squares(along)

    difference, size = (jnp.sqrt(jnp.sum(a, axis=0)) for a in jax.lax.map(one, vectors))
    return difference, size


def _squares(a: Array) -> Array:
    return jnp.sum(a.reshape(len(a), -1) ** 2, axis=1)


def jacobian_trace(
    denoiser: Denoiser,
    y: States,
    level: Array | float,
    cond: Cond = None,
    *,
    probes: int | None = None,
    key: Key | None = None,
    index: Array | None = None,
) -> PerSample:
    """Return tr dD/dy, the number of dimensions that the denoiser keeps.

    Args:
        denoiser, y, level, cond, probes, key, index: as of :func:`jacobian_asymmetry`.

    Returns:
        (batch,).

    Raises:
        ValueError, TypeError: for arguments that do not go together.

    Source: Hutchinson 1990, doi 10.1080/03610919008812866.
    """
    D, level = _checked(denoiser, y, level, cond)
    return _trace(D, y, level, cond, _probes(y, probes, key, index))


@jax.jit
def _trace(D: Partial, y: Array, level: Array, cond: Cond, vectors: Array) -> Array:
    denoise = lambda y, level, cond=None: evaluate(D, y, level, None, cond)  # noqa: E731
    _, diagonal = jacobian_diagonal(denoise, y, level, cond, vectors)
    return jnp.sum(diagonal.reshape(len(y), -1), axis=1)


def singular_values(
    denoiser: Denoiser,
    y: States,
    level: Array | float,
    cond: Cond = None,
    *,
    key: Key,
    count: int = 1,
    iterations: int = 20,
    index: Array | None = None,
) -> Array:
    """Return the largest singular values of dD/dy; the first is the local Lipschitz constant.

    Orthogonal iteration of J^T J: the k-th value converges from below, by the factor
    (sigma_{count+1}/sigma_k)^2 an iteration; take a few more than needed where values are close.

    Args:
        denoiser, y, level, cond, index: as of :func:`jacobian_asymmetry`.
        key: typed key of the first vectors, each sample's own.
        count: how many, 1 to d.
        iterations: each costs ``count`` products with J and as many with J^T.

    Returns:
        (batch, count), decreasing.

    Raises:
        ValueError, TypeError: for arguments that do not go together.

    Source: Golub and Van Loan, Matrix computations, section 8.2.
    """
    D, level = _checked(denoiser, y, level, cond)
    check_typed(key)
    size = y[0].size
    if not 1 <= count <= size or iterations < 1:
        raise ValueError(
            f"count must be 1 to {size} and iterations at least 1; got {count} and {iterations}"
        )
    keys = sample_keys(key, y, index)
    return _singular_values(D, y, level, cond, keys, count, iterations)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _singular_values(
    D: Partial, y: Array, level: Array, cond: Cond, keys: Key, count: int, iterations: int
) -> Array:
    forward, back = _products(D, y, level, cond)
    size = y[0].size

    def columns(product: Callable[[Array], Array], block: Array) -> Array:
        """Return the product with every column of a block (batch, d, count)."""
        rows = jnp.moveaxis(block, 2, 0).reshape(count, *y.shape)
        made = jax.lax.map(product, rows)
        return jnp.moveaxis(made.reshape(count, len(y), size), 0, 2)

    draw = jax.vmap(lambda key: jax.random.normal(key, (size, count), y.dtype))
    block = jnp.linalg.qr(draw(keys))[0]
    again = lambda _, block: jnp.linalg.qr(columns(back, columns(forward, block)))[0]  # noqa: E731
    image = columns(forward, jax.lax.fori_loop(0, iterations, again, block))
    inner = einsum("bdi,bdj->bij", image, image)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(inner)[:, ::-1], 0))
