r"""Interpolation of latents: what keeps noise noise.

For independent z_1, ..., z_K ~ N(0, I), z = sum_k c_k z_k is N(0, sum c_k^2 I). So with weights
w_k, sum w_k = 1, of two latents w = (1 - t, t):

    linear       c = w                        sum c^2 < 1: the middle has the norm sqrt(d/2)
    covariance   c = w / sqrt(sum w^2)        N(0, I) again
    square_root  c = sqrt(w)                  N(0, I) again, w not negative
    spherical    c = sin((1 - t) a)/sin a, sin(t a)/sin a   of two latents with the angle a

Spherical interpolation keeps the norm of two latents of one norm exactly, and for independent ones,
a about pi/2, it is N(0, I) up to 1/sqrt(d).

On Gaussian data the probability flow is linear, so that the sample of z is m + sum_k c_k (x_k - m)
and its variance that of the data times sum c_k^2: linear interpolation gives half of it in the
middle.

Sources: Song et al., arXiv 2010.02502, appendix D.5 (spherical); Bodin et al., Linear combinations
of latents in generative models, arXiv 2408.08558 (covariance); Chen et al., arXiv 2305.19947
(linear weights leave the sphere of noise).
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxdiff.analysis.points import compiled, divide, floating
from jaxdiff.arrays import check
from jaxdiff.typing import Array, States

Mode = Literal["spherical", "square_root", "linear", "covariance"]


def interpolate(
    first: States, second: States, weights: ArrayLike, mode: Mode = "spherical"
) -> Float[Array, "weights batch *shape"]:
    """Return latents between two batches of latents, sample by sample.

    Args:
        first, second: (batch, *shape), noise of unit variance (a start over its level).
        weights: (weights,), how far from the first to the second: 0 and 1 are these themselves.
        mode: one of "spherical", "square_root", "linear", "covariance" (see the module).

    Returns:
        (weights, batch, *shape).

    Raises:
        ValueError, TypeError: for two shapes, numbers not floating, an unknown mode, or weights
            outside [0, 1], with which only "linear" and "covariance" go.

    Source: as of the module.
    """
    check_mode(mode)
    if jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            f"latents of one shape are interpolated, not {jnp.shape(first)} and {jnp.shape(second)}"
        )
    first, second = floating("latents", first), floating("latents", second)
    t = jnp.asarray(weights, first.dtype)
    if t.ndim != 1:
        raise ValueError(f"weights must have shape (weights,); theirs is {t.shape}")
    if mode in ("spherical", "square_root"):
        check(f"{mode} weights are in [0, 1]", lambda w: ((w >= 0) & (w <= 1)).all(), weights)
    return _between(first, second, t, mode)


@compiled("mode")
def _between(first: Array, second: Array, t: Array, mode: Mode) -> Array:
    if mode == "spherical":
        pair = (_spherical(x[:, None], _angles(first, second)[None]) for x in (1 - t, t))
    else:
        pair = (c[:, None] for c in _coefficients(jnp.stack([1 - t, t], axis=1), mode).T)
    a, b = (c.reshape(*c.shape, *[1] * (first.ndim - 1)) for c in pair)
    return a * first[None] + b * second[None]


def _spherical(share: Array, angle: Array) -> Array:
    """Return sin(t a)/sin a, and its limit t as a goes to 0."""
    flat = jnp.sin(angle) < 1e-6
    return jnp.where(flat, share, jnp.sin(share * angle) / jnp.where(flat, 1, jnp.sin(angle)))


def _angles(a: Array, b: Array) -> Array:
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    sizes = jnp.sqrt(jnp.sum(a**2, axis=1) * jnp.sum(b**2, axis=1))
    cosine = divide(jnp.sum(a * b, axis=1), sizes)
    inside = jnp.abs(cosine) < 1  # the slope of arccos is infinite at its ends
    return jnp.where(
        inside, jnp.arccos(jnp.where(inside, cosine, 0)), jnp.where(cosine > 0, 0, jnp.pi)
    )


def check_mode(mode: str, *, spherical: bool = True) -> None:
    """Raise ValueError for an unknown mode, and for "spherical" where it is no function of weights
    alone.
    """
    known = [m for m in get_args(Mode) if spherical or m != "spherical"]
    if mode not in known:
        raise ValueError(f"mode is {', '.join(map(repr, known))}, not {mode!r}")


def coefficients(weights: ArrayLike, mode: Mode) -> Float[Array, "*sets k"]:
    """Return the coefficients c of latents in a combination with weights w.

    Args:
        weights: (..., K), sums 1 along the last axis.
        mode: "linear", "covariance" or "square_root".

    Returns:
        (..., K).

    Raises:
        ValueError: for another mode, weights that do not sum to 1, or negative ones with
            "square_root".

    Source: as of the module.
    """
    check_mode(mode, spherical=False)
    check("weights must sum to 1", lambda w: (abs(w.sum(-1) - 1) < 1e-5).all(), weights)
    if mode == "square_root":
        check("square roots are of weights not negative", lambda w: (w >= -1e-7).all(), weights)
    w = jnp.asarray(weights)
    return _coefficients(w if jnp.issubdtype(w.dtype, jnp.floating) else w.astype(float), mode)


@compiled("mode")
def _coefficients(w: Array, mode: Mode) -> Array:
    if mode == "square_root":
        return jnp.sqrt(jnp.maximum(w, 0))
    return w if mode == "linear" else w / jnp.sqrt(jnp.sum(w**2, axis=-1, keepdims=True))


def combine(
    latents: Float[Array, "k batch *shape"], weights: ArrayLike, mode: Mode = "covariance"
) -> States:
    """Return a combination of several batches of latents.

    Args:
        latents: (K, batch, *shape), noise of unit variance.
        weights: (K,), sum 1.
        mode: as of :func:`coefficients`.

    Returns:
        (batch, *shape).

    Raises:
        ValueError: as of :func:`coefficients`, and for another number of weights.

    Source: Bodin et al., arXiv 2408.08558.
    """
    latents = floating("latents", latents)
    c = coefficients(weights, mode).astype(latents.dtype)
    if c.shape != latents.shape[:1]:
        raise ValueError(f"{latents.shape[0]} batches of latents have not {c.shape} weights")
    return jnp.sum(c.reshape((-1,) + (1,) * (latents.ndim - 1)) * latents, axis=0)


def variance_factor(weights: ArrayLike, mode: Mode) -> Float[Array, "*sets"]:
    """Return sum c_k^2, the variance of a combination of independent latents.

    Args:
        weights, mode: as of :func:`coefficients`.

    Returns:
        (...), the variance of its samples over that of Gaussian data too; 1 but for "linear".
    """
    return jnp.sum(coefficients(weights, mode) ** 2, axis=-1)


def relative_norm(latents: Float[Array, "*axes"], dims: int) -> Array:
    """Return |z|/sqrt(d) over the last ``dims`` axes, about 1 for noise of unit variance.

    Args:
        latents: (..., *shape).
        dims: the number of axes of one sample, at least 1.

    Returns:
        Of the shape of what is left.

    Raises:
        ValueError: for another number of axes.
    """
    z = jnp.asarray(latents)
    if not 1 <= dims <= z.ndim:
        raise ValueError(f"dims must be 1 to {z.ndim}, not {dims}")
    return jnp.sqrt(jnp.mean(z**2, axis=tuple(range(z.ndim - dims, z.ndim))))
