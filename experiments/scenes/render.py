"""A picture drawn by a few soft, oriented blobs, at any resolution.

The picture is the square [-1, 1]^2, first coordinate to the right, second down. A blob k with
centre c, widths (u, v), angle and opacity a covers a point p by

    g_k(p) = a exp(-|S (p - c)|^2 / 2),    S = diag(1/u, 1/v) R(-angle),

and the ink at p is what at least one of them covers, as if each covered by chance:

    ink(p) = 1 - prod_k (1 - g_k(p)),      between 0 and 1.

A pixel is the mean of the ink at FINE x FINE points, from -1 (none) to 1, as the digits' pixels are
means of 4 x 4 black or white dots. At 8 x 8 pixels the points are 0.125 apart, about two of a
blob's least widths, so that a pixel is right to a few thousandths. A single blob inside the picture
has the mass 2 pi a u v.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Key, Params

FINE = 2
THIN, WIDE = 0.06, 0.5  # a blob's least and largest width; a pixel of the digits is 0.25 wide


def widths(scene: Params) -> Array:
    """Widths of blobs, between THIN and WIDE."""
    return THIN * (WIDE / THIN) ** jax.nn.sigmoid(scene["width"])


def ink(scene: Params, points: Array) -> Array:
    """Ink (n,) at points (n, 2), of a scene of K blobs: "position" (K, 2), "width" (K, 2), "angle"
    (K,) and "opacity" (K,).
    """
    offset = points[:, None] - scene["position"][None]  # (n, K, 2)
    cos, sin = jnp.cos(scene["angle"])[None], jnp.sin(scene["angle"])[None]
    along = cos * offset[..., 0] + sin * offset[..., 1]
    across = cos * offset[..., 1] - sin * offset[..., 0]
    u, v = jnp.moveaxis(widths(scene), -1, 0)
    square = (along / u[None]) ** 2 + (across / v[None]) ** 2
    cover = jax.nn.sigmoid(scene["opacity"])[None] * jnp.exp(-0.5 * square)
    return 1.0 - jnp.prod(1.0 - cover, axis=1)


def points(size: int, fine: int) -> Array:
    """Points (size * fine * size * fine, 2), row by row."""
    at = jnp.arange(0.5, size * fine) * (2.0 / (size * fine)) - 1.0
    down, right = jnp.meshgrid(at, at, indexing="ij")
    return jnp.stack([right.ravel(), down.ravel()], axis=1)


@functools.partial(jax.jit, static_argnames=("size", "fine"))
def picture(scene: Params, size: int = 8, fine: int = FINE) -> Array:
    """Pixels (size, size, 1) in [-1, 1]."""
    values = ink(scene, points(size, fine).astype(scene["position"].dtype))
    return 2.0 * values.reshape(size, fine, size, fine, 1).mean(axis=(1, 3)) - 1.0


@functools.partial(jax.jit, static_argnames=("size", "fine"))
def pictures(scenes: Params, size: int = 8, fine: int = FINE) -> Array:
    """Pictures (n, size, size, 1) of n scenes, whose parameters have a first axis more."""
    return jax.vmap(functools.partial(picture, size=size, fine=fine))(scenes)


@functools.partial(jax.jit, static_argnames="count")
def blobs(key: Key, count: int) -> Params:
    """Return a scene of faint blobs scattered about the middle."""
    keys = jax.random.split(key, 3)
    return {
        "position": 0.4 * jax.random.normal(keys[0], (count, 2)),
        "width": 0.5 * jax.random.normal(keys[1], (count, 2)) - 0.3,
        "angle": jnp.pi * jax.random.uniform(keys[2], (count,)),
        "opacity": jnp.full((count,), -1.5),
    }
