r"""Projections of states onto what a measurement says of them.

A measurement u = A x0 says of the state y = x0 + s n that A y = u + s A n. The nearest state with

    y <- y + w A^+ (u + s A n - A y)

is the correction of score-based models for linear problems (Song et al. 2111.08005, eq. 9, with the
weight w; 2011.13456, appendix I.2, for w = 1) and, beside a gradient, the projection of MCG (Chung
et al. 2206.00941, eq. 14). A low-pass filter in place of A^+ A gives iterative latent variable
refinement, ILVR (Choi et al. 2108.02938, algorithm 1),

    y <- y + phi(reference + s n) - phi(y),

and either of them, from a start that is an estimate with noise of a middle level, is CCDF (Chung et
al. 2112.05146): ``sample(D, table(solver, levels), estimate + levels[0] * noise, correct=...)``.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdiff.arrays import check, expand, fixed
from jaxdiff.conditioning.corrections.replacement import own_noise, rows_like
from jaxdiff.conditioning.operators import Measurement
from jaxdiff.conditioning.operators.measurement import linear_of
from jaxdiff.typing import Array, Key

Filter = Literal["bicubic", "average"]


def projection(measurement: Measurement, weight: float | Array = 1.0) -> Partial:
    """Return the correction y + w A^+ (u + s A n - A y) (arXiv 2111.08005, eq. 9).

    Args:
        measurement: of a linear operator with a decomposition. Its noise is not used: with noise
            the weight should be below 1, as the authors' is.
        weight: w in [0, 1], a number or one per sample.

    Raises:
        TypeError: for what is no measurement of a linear operator. ValueError: for a weight outside
            [0, 1], or an operator without a decomposition.
    """
    check("the weight must be in [0, 1]", lambda w: ((w >= 0) & (w <= 1)).all(), weight)
    operator = linear_of(measurement, "projection")
    operator.svd  # noqa: B018 - its error now
    return Partial(_projection, measurement, weight)


def _projection(
    measurement: Measurement, weight: Array, y: Array, level: Array, key: Key | None
) -> Array:
    operator = linear_of(measurement, "projection")
    noised = y - expand(level, y) * own_noise(key, y, "projection")
    apart = measurement.rows(y) - operator.apply(noised)
    return y + expand(weight, y) * operator.pseudo_inverse(apart)


class _LowPass(NamedTuple):
    """phi: down by a factor along some axes, and up again."""

    factor: int
    axes: tuple[int, ...]
    kind: Filter

    def __call__(self, x: Array) -> Array:
        if any(not 0 < a < x.ndim or x.shape[a] % self.factor for a in self.axes):
            raise ValueError(
                f"axes {self.axes} of states {x.shape} cannot be made {self.factor} times smaller"
            )
        small = tuple(n // self.factor if i in self.axes else n for i, n in enumerate(x.shape))
        if self.kind == "bicubic":
            return jax.image.resize(jax.image.resize(x, small, "cubic"), x.shape, "cubic")
        for axis in self.axes:
            split = (*x.shape[:axis], -1, self.factor, *x.shape[axis + 1 :])
            means = x.reshape(split).mean(axis + 1)
            x = jnp.repeat(means, self.factor, axis=axis)
        return x


def ilvr(
    reference: ArrayLike,
    factor: int,
    *,
    axes: tuple[int, ...] = (1, 2),
    filter: Filter = "bicubic",
    stop: float = 0.0,
) -> Partial:
    """Return the correction that gives samples the low frequencies of a reference (ILVR, arXiv
    2108.02938, algorithm 1).

    Args:
        reference: (*shape) of all samples, or (batch, *shape).
        factor: N, by which pictures are made smaller and larger again, a divisor of their sizes.
        axes: of the states (batch, *shape), that are made smaller.
        filter: "bicubic", the paper's, or "average" over blocks, which is a projection: filtered,
            the corrected state then equals the filtered reference with noise.
        stop: at levels up to this one nothing is corrected.

    Raises:
        ValueError: for a factor below 1, an unknown filter or a negative level; when called, for
            sizes that the factor does not divide, or without a key.
    """
    if factor < 1 or filter not in ("bicubic", "average"):
        raise ValueError(f"ilvr needs a factor of at least 1 and a filter 'bicubic' or 'average', "
                         f"not {factor} and {filter!r}")  # fmt: skip
    check("stop must be a level, not negative", lambda s: s >= 0, stop)
    low = _LowPass(int(factor), tuple(axes), filter)
    return Partial(fixed(_ilvr, low=low), jnp.asarray(reference), stop)


def _ilvr(
    reference: Array, stop: Array, y: Array, level: Array, key: Key | None, *, low: _LowPass
) -> Array:
    noised = rows_like(reference, y, "reference") + expand(level, y) * own_noise(key, y, "ilvr")
    apart = low(noised - y)
    use = expand(jnp.asarray(level, y.dtype) > jnp.asarray(stop, y.dtype), y)
    return y + use * apart
