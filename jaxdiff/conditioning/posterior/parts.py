r"""Parts that methods share: a denoiser with its pullback, weights, and linear solves row by row.

Every method makes of D the approximate posterior mean

    D'(y, s) = D(y, s) + w(s) s^2 g(y, s),    g ~ grad_y log p(u | y),

which with g exact and w = 1 is E[x0 | y, u] (Tweedie's formula of the posterior). Papers that step
by "take the sampler's step, then subtract zeta g" have a w that depends on the grid,
:func:`per_step`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

from jaxdiff.arrays import expand
from jaxdiff.conditioning.operators.linear import CUTOFF
from jaxdiff.conditioning.operators.measurement import Measurement, linear_of
from jaxdiff.sampling.checks import as_states
from jaxdiff.solvers.ancestral import check_eta
from jaxdiff.typing import Array, Cond, Key, PerSample

CHEAP_ITERATIONS = 64  # of conjugate gradients that call no denoiser


def square(level: Array, like: Array) -> Array:
    """Return level^2, shaped to multiply ``like``."""
    return expand(jnp.asarray(level, like.dtype) ** 2, like)


def per_step(step: float | Array, levels: Sequence[float] | Array, eta: float = 1.0) -> Partial:
    r"""Return the weight with which DDIM's step on a grid subtracts ``step`` times the gradient.

    DDIM's step from s to r with noise eta is (down/s) y + (1 - down/s) D' + noise, so the weight at
    a knot s is step/(s^2 (1 - down/s)), with down as of
    :func:`jaxdiff.solvers.ancestral.ancestral_levels`. For :func:`jaxdiff.solvers.ddim` of this eta
    (0 is Euler), on these levels; anywhere else the weight is NaN.

    Args:
        step: zeta of the paper's step.
        levels: the grid, decreasing.
        eta: the solver's.

    Raises:
        ValueError: for levels that do not decrease, or an eta outside [0, 1].
    """
    check_eta("per_step", eta)
    knots = levels if isinstance(levels, Tracer) else np.asarray(levels, float)
    if not isinstance(knots, Tracer) and not _decreases(knots):
        raise ValueError(f"levels are two or more, decreasing, the last at least 0; got {knots}")
    return Partial(_per_step, step, jnp.asarray(knots), eta)


def _decreases(knots: np.ndarray) -> bool:
    return bool(
        knots.ndim == 1 and len(knots) > 1 and (np.diff(knots) < 0).all() and knots[-1] >= 0
    )


def _per_step(step: Array, levels: Array, eta: Array, level: Array) -> Array:
    s = jnp.asarray(level)
    knots = levels.astype(s.dtype)
    away = jnp.abs(knots[:-1].reshape((1,) * s.ndim + (-1,)) - s[..., None])
    i = jnp.argmin(away, axis=-1)
    r, near = knots[i + 1], jnp.abs(knots[i] - s) <= 1e-4 * s
    share = jnp.asarray(eta, s.dtype) ** 2
    down = (r / s) * jnp.sqrt((1 - share) * s**2 + share * r**2)
    weight = jnp.asarray(step, s.dtype) / (s * (s - down))
    return jnp.where(near, weight, jnp.nan)


def denoised(
    denoiser: Partial, y: Array, level: Array, cond: Cond, options: dict[str, Any]
) -> Array:
    """Return D(y) in the dtype of the states, in which measurements are taken apart. Errors as of
    :func:`jaxdiff.sampling.checks.as_states`.
    """
    return as_states(denoiser(y, level, cond, **options), y)


def pulled(
    denoiser: Partial, y: Array, level: Array, cond: Cond, options: dict[str, Any]
) -> tuple[Array, Callable[[Array], Array]]:
    """Return D(y) and v -> J^T v, J = dD/dy of every row."""
    output, back = jax.vjp(lambda y: denoised(denoiser, y, level, cond, options), y)
    return output, lambda v: back(v)[0]


def dot(a: Array, b: Array) -> Array:
    """Return the inner product of every row, shaped to multiply them."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def norm(x: Array) -> PerSample:
    """Return the norm of every row, (batch,), its gradient 0 where it is 0."""
    size = dot(x, x).reshape(-1)
    return jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1)), 0)


def over(a: Array, b: Array) -> Array:
    """Return a/b, and 0 where b is not positive: what is solved stays as it is."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def conjugate_gradients(
    matrix: Callable[[Array], Array], b: Array, num_iterations: int, unroll: bool = False
) -> Array:
    """Solve M x = b row by row, M symmetric and positive, from x = 0.

    Every row has its own coefficients (``jax.scipy.sparse.linalg.cg`` has one set for the batch,
    and its rows would depend on each other). A row ends where its residual is rounding, or where
    the curvature is not positive.
    """
    b, scale = _scaled(b)
    smallest = _rounding(b)

    def step(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        x, r, p, size = carry
        q = matrix(p)
        curvature = dot(p, q)
        going = (size > smallest) & (curvature > _least(b))
        a = over(size, jnp.where(going, curvature, 0))
        r_next = r - a * q
        size_next = dot(r_next, r_next)
        return (
            x + a * p,
            r_next,
            r_next + over(size_next, jnp.where(going, size, 0)) * p,
            size_next,
        ), None

    first = (jnp.zeros_like(b), b, b, dot(b, b))
    return scale * jax.lax.scan(step, first, None, num_iterations, unroll=unroll or 1)[0][0]


def minimal_residuals(matrix: Callable[[Array], Array], b: Array, num_iterations: int) -> Array:
    """Solve M x = b row by row, M symmetric, by conjugate residuals, from x = 0: the iterates have
    the least residual of their Krylov space, as those of GMRES have. Unrolled. A row ends as those
    of :func:`conjugate_gradients` do.
    """
    b, scale = _scaled(b)
    smallest = _rounding(b)
    x, r = jnp.zeros_like(b), b
    p, q = b, matrix(b)
    m = q
    for i in range(num_iterations):
        curvature, length = dot(r, m), dot(q, q)
        going = (dot(r, r) > smallest) & (curvature > _least(b)) & (length > _least(b))
        a = over(curvature, jnp.where(going, length, 0))
        x, r = x + a * p, r - a * q
        if i + 1 < num_iterations:
            m = matrix(r)
            beta = over(dot(r, m), jnp.where(going, curvature, 0))
            p, q = r + beta * p, m + beta * q
    return scale * x


def _scaled(b: Array) -> tuple[Array, Array]:
    """Return every row divided by its largest number, and these as constants: a solve is linear in
    b, and the squares of small ones would underflow.
    """
    most = jnp.max(jnp.abs(b), axis=tuple(range(1, b.ndim)), keepdims=True)
    scale = jax.lax.stop_gradient(jnp.where(most > 0, most, 1))
    return b / scale, scale


def _rounding(b: Array) -> Array:
    """Return the square of a residual that is rounding."""
    return jnp.finfo(b.dtype).eps ** 2 * jax.lax.stop_gradient(dot(b, b))


def _least(b: Array) -> float:
    """Return what a divisor must be above: its inverse square, in the derivative, is finite."""
    return 4 * float(jnp.finfo(b.dtype).max) ** -0.5


def gain(measurement: Measurement, variance: Array, residual: Array) -> Array:
    """Return v A^T (v A A^T + noise^2)^-1 residual: the mean shift of N(0, v I) samples.

    By the decomposition where the operator has one and the noise is one number for a sample; else
    by conjugate gradients.

    Args:
        measurement: of a linear operator; without noise it is A^+ residual.
        variance: v, a number or (batch,).
        residual: (batch, *measured).
    """
    A = linear_of(measurement)
    noise = measurement.deviation(residual) ** 2
    v = jnp.asarray(variance, residual.dtype)
    if A.basis is not None and all(n == 1 for n in noise.shape[1:]):
        singular = A.basis.values(residual)
        v, flat = v.reshape(-1, 1), noise.reshape(-1, 1)
        kept = singular > CUTOFF * jnp.max(singular)
        exact = jnp.where(kept, 1 / jnp.where(kept, singular, 1), 0)  # without noise, also at v = 0
        bottom = v * singular**2 + flat
        noisy = kept & (flat > 0)
        factor = jnp.where(noisy, v * singular / jnp.where(noisy, bottom, 1), exact)
        factor = jnp.where(kept, factor, 0)
        return A.basis.sample(factor * A.basis.observed(residual))
    wide = expand(v, residual)
    found = conjugate_gradients(
        lambda u: wide * A.apply(A.transpose(u)) + noise * u, residual, CHEAP_ITERATIONS
    )
    shift = A.transpose(found)
    return expand(v, shift) * shift


def level_draws(key: Key, level: Array, count: int, like: Array, shape: tuple[int, ...]) -> Array:
    """Return noise (count, batch or 1, *shape) in the dtype of ``like``: of the level, whatever the
    row, so that a denoiser that draws is a function, and no sample depends on its batch.
    """

    def of(s: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(s.astype(jnp.float32), jnp.uint32)
        return jax.random.normal(jax.random.fold_in(key, bits), (count, *shape), like.dtype)

    if level.ndim == 0:
        return of(level)[:, None]
    return jnp.moveaxis(jax.vmap(of)(level), 0, 1)


def check_iterations(name: str, count: int) -> None:
    """Raise ValueError for fewer than one iteration."""
    if int(count) != count or count < 1:
        raise ValueError(f"{name} needs at least one iteration, not {count}")
