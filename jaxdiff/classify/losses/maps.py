"""Distillation of maps f (batch, height, width, channels), the larger averaged to the smaller.

    hint        mean (f_s - f_t)^2
    variational mean [ (mu - f_t)^2 / v + log v ] / 2,   mu and v of the student's map (VID)
    attention   mean (n(a_s) - n(a_t))^2,     a = mean over channels of f^2, flattened; n(a) = a/|a|
    factor      mean |n(a_s) - n(a_t)|,       of the factors of paraphraser and translator
    similarity  |r(F_s F_s') - r(F_t F_t')|^2 / batch^2,   F = f flattened, r: rows divided by norms
    selectivity mean k(t,t) + mean k(s,s) - 2 mean k(s,t), k(a,b) = (a.b)^2 of channels as unit
                vectors over pixels (NST)
    flow        mean (G_s - G_t)^2,           G = mean over pixels of f1 (x) f2 of two stages (FSP)

Sources: hint, Romero et al., arXiv 1412.6550; variational, Ahn et al., arXiv 1904.05835; attention,
Zagoruyko and Komodakis, arXiv 1612.03928; factor, Kim et al., arXiv 1802.04977; similarity, Tung
and Mori, arXiv 1907.09682; selectivity, Huang and Wang, arXiv 1707.01219; flow, Yim et al., CVPR
2017.
"""

import jax.numpy as jnp

from jaxdiff.arrays import einsum
from jaxdiff.networks.classifier_layers import adaptive_mean
from jaxdiff.typing import Array


def aligned(f_s: Array, f_t: Array) -> tuple[Array, Array]:
    """Return both maps at the smaller of their sizes, along each axis."""
    height, width = (min(f_s.shape[i], f_t.shape[i]) for i in (1, 2))
    return adaptive_mean(f_s, height, width), adaptive_mean(f_t, height, width)


def unit(x: Array, axis: int = -1) -> Array:
    """Return ``x`` divided by its norm along an axis; zeros stay zeros, with gradient 0."""
    square = jnp.sum(x**2, axis=axis, keepdims=True)
    zero = square == 0
    norm = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
    return x / jnp.maximum(norm, jnp.asarray(1e-12, x.dtype))


def hint(f_s: Array, f_t: Array) -> Array:
    """Return mean (f_s - f_t)^2 of two arrays of one shape (Romero et al., arXiv 1412.6550)."""
    if f_s.shape != f_t.shape:
        raise ValueError(
            f"features of shapes {f_s.shape} and {f_t.shape} have no squared distance: a regressor "
            "brings the student's to the teacher's"
        )
    return jnp.mean((f_s - f_t) ** 2)


def variational(mean: Array, variance: Array, f_t: Array) -> Array:
    """Return the mean of [(mean - f_t)^2 / v + log v] / 2 (Ahn et al., arXiv 1904.05835), of means
    of the shape of ``f_t`` and variances (channels,).
    """
    v = variance.reshape((1,) * (f_t.ndim - 1) + (-1,))
    return 0.5 * jnp.mean((mean - f_t) ** 2 / v + jnp.log(v))


def attention(f_s: Array, f_t: Array) -> Array:
    """Return the squared distance of attention maps (arXiv 1612.03928)."""
    s, t = map(_energy, aligned(f_s, f_t))
    return jnp.mean((s - t) ** 2)


def factor(f_s: Array, f_t: Array) -> Array:
    """Return the mean distance of factors of one size (Kim et al., arXiv 1802.04977), their energy
    over channels as the attention's.
    """
    return jnp.mean(jnp.abs(_energy(f_s) - _energy(f_t)))


def _energy(f: Array) -> Array:
    return unit(jnp.mean(f**2, axis=3).reshape(f.shape[0], -1))


def similarity(f_s: Array, f_t: Array) -> Array:
    """Return the squared distance of the batch's Gram matrices (Tung and Mori, arXiv 1907.09682).

    Of the whole batch: a loss of pairs of samples, and under pmap of the pairs on each device.
    Raises ValueError for a batch of one.
    """
    check_pairs(f_s, "similarity")
    s, t = (unit(gram(f)) for f in (f_s, f_t))
    return jnp.mean((s - t) ** 2)


def check_pairs(f: Array, name: str) -> None:
    """Raise ValueError for features of a batch of one, of which a loss of pairs says nothing."""
    if f.shape[0] < 2:
        raise ValueError(f"{name} is of pairs of samples: a batch of 2 at least, not {f.shape[0]}")


def gram(f: Array) -> Array:
    """Return the products of samples (batch, batch) of maps or features."""
    flat = f.reshape(f.shape[0], -1)
    return einsum("ai,bi->ab", flat, flat)


def selectivity(f_s: Array, f_t: Array) -> Array:
    """Return the squared mean discrepancy of channels, kernel (a.b)^2 (arXiv 1707.01219, NST)."""
    s, t = (unit(f.reshape(f.shape[0], -1, f.shape[3]), axis=1) for f in aligned(f_s, f_t))

    def kernel(a: Array, b: Array) -> Array:
        return jnp.mean(einsum("bpi,bpj->bij", a, b) ** 2)

    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


def flow(first_s: Array, second_s: Array, first_t: Array, second_t: Array) -> Array:
    """Return the squared distance of Gram matrices between two stages (Yim et al., CVPR 2017).

    Raises ValueError for stages of other widths than the teacher's.
    """
    s, t = (_between(*pair) for pair in ((first_s, second_s), (first_t, second_t)))
    if s.shape != t.shape:
        raise ValueError(
            f"the flow between stages of {s.shape[1:]} channels has no distance to one of "
            f"{t.shape[1:]}: FSP needs a student of the teacher's widths"
        )
    return jnp.mean((s - t) ** 2)


def _between(first: Array, second: Array) -> Array:
    first, second = aligned(first, second)
    return einsum("bhwi,bhwj->bij", first, second) / (first.shape[1] * first.shape[2])
