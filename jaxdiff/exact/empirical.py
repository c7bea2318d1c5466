"""A finite data set."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from jaxdiff.arrays import einsum, pytree_dataclass
from jaxdiff.exact.parts import LOG_2PI, NEAREST, T, floats, levels, no_classes, over
from jaxdiff.typing import Array, Cond, Key, PerSample, Points, Values


@pytree_dataclass
class Empirical:
    """A finite data set, each of its points equally likely; p_s is a Gaussian kernel density.

    data: (n, d). centre: (d,), its mean, subtracted before distances are taken. chunk: points
    handled at once; sums over the points are streamed, so memory does not grow with n B.

    Distances are expanded, |y - x|^2 = |y|^2 - 2 y x + |x|^2: in float32 they are wrong by about
    1e-7 |y||x|, which moves the weights of nearly equidistant points at levels below a few
    thousandths of |x|. As s -> 0 the denoiser becomes the nearest point.
    """

    data: Array
    centre: Array = dataclasses.field(init=False)
    chunk: int = dataclasses.field(default=1024, metadata={"static": True})

    def __init__(self, data: Values, chunk: int = 1024) -> None:
        """Take the points (n, d), n >= 1, as floating numbers of any precision.

        Raises ValueError for another shape, numbers that are not finite or a chunk below 1.
        """
        data = floats("data", data)
        if data.ndim != 2 or data.shape[0] < 1:
            raise ValueError(f"data must have shape (n, d) with n >= 1; got {data.shape}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "centre", data.mean(0))
        object.__setattr__(self, "chunk", min(chunk, data.shape[0]))

    def _sum(self, add: Callable[[T, Array, Array], T], start: T, dtype: DTypeLike) -> T:
        """Return start + all points, by add(sum, centred points (chunk, d), new (chunk,))."""
        count = self.data.shape[0]

        @jax.checkpoint
        def body(total: T, i: Array) -> tuple[T, None]:
            first = jnp.minimum(i * self.chunk, count - self.chunk)
            points = jax.lax.dynamic_slice_in_dim(self.data, first, self.chunk).astype(dtype)
            new = first + jnp.arange(self.chunk) >= i * self.chunk  # the last chunk overlaps
            return add(total, points - self.centre.astype(dtype)[None], new), None

        return jax.lax.scan(body, start, jnp.arange(-(-count // self.chunk)))[0]

    def _inner(self, z: Array, points: Array, new: Array) -> Array:
        """Return (|z|^2 - |z - x|^2)/2, -inf for repeated points x; (B, chunk)."""
        inner = einsum("bd,nd->bn", z, points) - 0.5 * jnp.sum(points**2, axis=1)[None]
        return jnp.where(new[None], inner, -jnp.inf)

    def _weigh(self, y: Array, level: ArrayLike) -> "_Weighed":
        """Sum the weights exp(inner/s^2), up to their largest.

        One pass with a running maximum (online softmax). It is subtracted before the division by
        s^2, so that the largest exponent is 0 at any level, however a compiler rounds.
        """
        s = levels(y, level, self.data.shape[1])
        z = y - self.centre.astype(y.dtype)[None]

        def add(sums: tuple[Array, ...], points: Array, new: Array) -> tuple[Array, ...]:
            top, total, squares, mean = sums
            inner = self._inner(z, points, new)
            higher = jax.lax.stop_gradient(jnp.maximum(top, inner.max(axis=1)))
            e, shrink = _exp(inner - higher[:, None], s[:, None]), _exp(top - higher, s)
            mean = mean * shrink[:, None] + einsum("bn,nd->bd", e, points)
            return higher, total * shrink + e.sum(1), squares * shrink**2 + (e**2).sum(1), mean

        zero = jnp.zeros_like(s)
        start = (jnp.full_like(s, -jnp.inf), zero, zero, jnp.zeros_like(z))
        top, total, squares, mean = self._sum(add, start, y.dtype)
        return _Weighed(z, s, top, total, mean / total[:, None], total**2 / squares)

    def denoise(self, y: Array, level: ArrayLike, cond: Cond = None) -> Points:
        """Return E[x0 | y], (B, d), a weighted mean of the data."""
        no_classes(cond)
        return self._weigh(y, level).mean + self.centre.astype(y.dtype)[None]

    @property
    def denoiser(self) -> Partial:
        """Return the denoiser D(y, level, cond=None), a pytree."""
        return Partial(Empirical.denoise, self)

    def score(self, y: Array, level: ArrayLike) -> Points:
        """Return the gradient of log p_s at y, (B, d); levels must be positive."""
        s = levels(y, level, self.data.shape[1])
        return (self.denoise(y, s) - y) / s[:, None] ** 2

    def log_density(self, y: Array, level: ArrayLike) -> PerSample:
        """Return log p_s(y) in nats, (B,); levels must be positive."""
        count, d = self.data.shape
        found = self._weigh(y, level)
        s = found.s
        nearest = (found.top - 0.5 * jnp.sum(found.z**2, axis=1)) / s**2
        return nearest + jnp.log(found.total) - math.log(count) - d * (jnp.log(s) + 0.5 * LOG_2PI)

    def neighbours(self, y: Array, level: ArrayLike) -> PerSample:
        """Return the effective number of data points in the mean D, 1/sum_i w_i^2, (B,)."""
        return self._weigh(y, level).neighbours

    def jacobian(self, y: Array, level: ArrayLike) -> Float[Array, "batch d d"]:
        """Return dD/dy = sum_i w_i (x_i - D)(x_i - D)^T / level^2, (B, d, d); small d only."""
        d = y.shape[1]
        start = jnp.zeros((y.shape[0], d, d), y.dtype)
        return self._second(y, level, lambda w, a: einsum("bn,bni,bnj->bij", w, a, a), start)

    def divergence(self, y: Array, level: ArrayLike) -> PerSample:
        """Return the trace of dD/dy, (B,)."""
        start = jnp.zeros(y.shape[:1], y.dtype)
        return self._second(y, level, lambda w, a: jnp.sum(w * jnp.sum(a**2, 2), 1), start)

    def _second(
        self, y: Array, level: ArrayLike, term: Callable[[Array, Array], Array], start: Array
    ) -> Array:
        """Return the sum over the points of term(w_i, x_i - D), over level^2: a second pass."""
        z, s, top, sum_of, mean, _ = self._weigh(y, level)

        def add(total: Array, points: Array, new: Array) -> Array:
            weights = _exp(self._inner(z, points, new) - top[:, None], s[:, None])
            return total + term(weights / sum_of[:, None], points[None] - mean[:, None])

        total = self._sum(add, start, y.dtype)
        return over(total, (s**2).reshape((-1,) + (1,) * (total.ndim - 1)))

    def moments(self, level: ArrayLike = 0.0) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Return mean (d,) and covariance (d, d) of y at a level (scalar)."""
        count, d = self.data.shape

        def add(total: Array, points: Array, new: Array) -> Array:
            return total + einsum("n,ni,nj->ij", new.astype(points.dtype), points, points)

        start = jnp.zeros((d, d), self.data.dtype)
        total = self._sum(add, start, start.dtype)
        noise = jnp.asarray(level, start.dtype) ** 2
        return self.centre, total / count + noise * jnp.eye(d, dtype=start.dtype)

    def sample(self, key: Key, count: int) -> Float[Array, "count d"]:
        """Return points x0 of the data, drawn with replacement, (count, d)."""
        return self.data[jax.random.randint(key, (count,), 0, self.data.shape[0])]


class _Weighed(NamedTuple):
    """Centred states z (B, d), levels s (B,), the largest inner product, the sum of exp((inner -
    top)/s^2), the centred mean (B, d), and 1/sum of squared weights.
    """

    z: Array
    s: Array
    top: Array
    total: Array
    mean: Array
    neighbours: Array


def _exp(difference: Array, s: Array) -> Array:
    """Return exp(difference/s^2) of differences that are at most 0; at level 0 its limit.

    Of -inf it is 0 at any level, and so is its derivative, which is not to be 0 times infinity.
    """
    known = difference > -jnp.inf
    made = jnp.exp(jnp.where(known, difference, 0) / jnp.maximum(s**2, NEAREST))
    return jnp.where(known, made, 0)
