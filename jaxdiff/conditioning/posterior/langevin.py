r"""Langevin dynamics on a posterior whose prior is a denoiser, at one level.

The prior's score at a small level s is (D(x, s) - x)/s^2 (Tweedie), so that with a likelihood

    grad U(x) = -w grad log p(u | x) - (D(x, s) - x)/s^2

is that of the potential of p_s(x) p(u | x)^w, p_s the prior with noise s, and

    ULA      x <- x - h grad U(x) + sqrt(2 h) z
    SK-ROCK  x <- K_n,   K_0 = x,   K_1 = x - m_1 h grad U(x + n_1 sqrt(2 h) z) + k_1 sqrt(2 h) z,
             K_j = -m_j h grad U(K_(j-1)) + n_j K_(j-1) + k_j K_(j-2),    k_j = 1 - n_j,

with a = 1 + eta/n^2, b = T_n(a)/T_n'(a), m_1 = b/a, n_1 = n b/2, k_1 = n m_1,
m_j = 2 b T_(j-1)(a)/T_j(a), n_j = 2 a T_(j-1)(a)/T_j(a): a stabilised Runge-Kutta-Chebyshev
method, stable up to h L = (n - 1/2)^2 (2 - 4 eta/3) - 3/2 where ULA is up to 2, L the potential's
curvature. Both have a bias of the order of h.

Sources: Laumont et al., arXiv 2103.04715, eq. 3 (PnP-ULA, without its projection onto a ball);
Pereyra, Vargas Mieles, Zygalakis, arXiv 1908.08845, algorithm 1 (SK-ROCK, eta = 0.05).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check, expand
from jaxdiff.conditioning.operators.measurement import Measurement, checked
from jaxdiff.conditioning.posterior.parts import check_iterations, denoised
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import check_typed
from jaxdiff.typing import Array, Cond, Denoiser, Key, States

ETA = 0.05  # damping of the Chebyshev polynomials


def ula(
    denoiser: Denoiser,
    measurement: Measurement,
    x: Array,
    level: float | Array,
    step: float | Array,
    key: Key,
    num_steps: int = 1000,
    *,
    cond: Cond = None,
    index: Any = None,
    weight: float | Array = 1.0,
) -> States:
    """Return states after steps of the unadjusted Langevin algorithm (arXiv 2103.04715, eq. 3).

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: with noise; of any operator that can be differentiated.
        x: (batch, *shape), the start.
        level: s, positive, a number or (batch,): the prior is sampled with so much noise.
        step: h, positive, a number or (batch,); below 2/L, L = 1/s^2 + |A|^2/noise^2 at most.
        key: typed key; every sample's noise is its own.
        num_steps: steps, an evaluation each.
        cond: handed to D.
        index: (batch,) integers naming the samples; 0, 1, ... by default.
        weight: w of the likelihood, a number or (batch,).

    Returns:
        (batch, *shape).

    Raises:
        ValueError: for a level, step or noise that is not positive, or fewer than one step.
        TypeError: for a key that is not typed, or what is no measurement.
    """
    _check("ula", measurement, level, step, key, num_steps)
    h = expand(jnp.asarray(step, x.dtype), x)

    def move(slope: Callable[[Array], Array], x: Array, z: Array) -> Array:
        return x - h * slope(x) + jnp.sqrt(2 * h) * z

    given = (denoiser, measurement, level, cond, weight)
    return _chain(move, given, x, key, num_steps, index)


def skrock(
    denoiser: Denoiser,
    measurement: Measurement,
    x: Array,
    level: float | Array,
    step: float | Array,
    key: Key,
    num_steps: int = 100,
    num_stages: int = 10,
    *,
    cond: Cond = None,
    index: Any = None,
    weight: float | Array = 1.0,
) -> States:
    """Return states after steps of SK-ROCK (arXiv 1908.08845, algorithm 1): steps longer than
    ULA's by a factor that grows with the square of the stages.

    Args:
        denoiser: ``D(y, level, cond)``.
        measurement: with noise; of any operator that can be differentiated.
        x: (batch, *shape), the start.
        level: s, positive, a number or (batch,): the prior is sampled with so much noise.
        step: h, positive, a number or (batch,); see the module's text for the largest.
        key: typed key; every sample's noise is its own.
        num_steps: steps, ``num_stages`` evaluations each.
        num_stages: n, at least 2.
        cond: handed to D.
        index: (batch,) integers naming the samples; 0, 1, ... by default.
        weight: w of the likelihood, a number or (batch,).

    Returns:
        (batch, *shape).

    Raises:
        ValueError: for a level, step or noise that is not positive, or fewer than one step or two
            stages.
        TypeError: for a key that is not typed, or what is no measurement.
    """
    _check("skrock", measurement, level, step, key, num_steps)
    if int(num_stages) != num_stages or num_stages < 2:
        raise ValueError(f"skrock needs at least two stages, not {num_stages}")
    h = expand(jnp.asarray(step, x.dtype), x)
    (m1, n1, k1), *others = chebyshev(int(num_stages))

    def move(slope: Callable[[Array], Array], x: Array, z: Array) -> Array:
        w = jnp.sqrt(2 * h) * z
        before, now = x, x - m1 * h * slope(x + n1 * w) + k1 * w
        for m, n, k in others:
            before, now = now, -m * h * slope(now) + n * now + k * before
        return now

    given = (denoiser, measurement, level, cond, weight)
    return _chain(move, given, x, key, num_steps, index)


def chebyshev(num_stages: int, eta: float = ETA) -> list[tuple[float, float, float]]:
    """Return the stages' coefficients (m, n, k) of SK-ROCK."""
    n, a = num_stages, 1 + eta / num_stages**2
    T = [np.polynomial.Chebyshev.basis(j) for j in range(n + 1)]
    b = T[n](a) / T[n].deriv()(a)
    made = [(b / a, n * b / 2, n * b / a)]
    for j in range(2, n + 1):
        share = T[j - 1](a) / T[j](a)
        made.append((2 * b * share, 2 * a * share, 1 - 2 * a * share))
    return [(float(m), float(p), float(k)) for m, p, k in made]


def _check(
    name: str, measurement: Measurement, level: Any, step: Any, key: Key, num_steps: int
) -> None:
    checked(measurement, name, noisy=True)
    check_typed(key)
    check_iterations(name, num_steps)
    check("level must be positive", lambda s: (s > 0).all(), level)
    check("step must be positive", lambda h: (h > 0).all(), step)


def _chain(
    move: Callable[..., Array], given: tuple, x: Array, key: Key, num_steps: int, index: Any
) -> Array:
    """Return x after so many moves with the posterior's slope and noise of its own."""
    denoiser, measurement, level, cond, weight = given
    D, s = as_partial(denoiser), jnp.asarray(level, x.dtype)
    w = expand(jnp.asarray(weight, x.dtype), x)
    keys = sample_keys(key, x, index)

    def slope(x: Array) -> Array:
        towards = jax.grad(lambda x: jnp.sum(measurement.log_likelihood(x)))(x)
        prior = (denoised(D, x, s, cond, {}) - x) / expand(s, x) ** 2
        return -w * towards - prior

    def body(i: Array, x: Array) -> Array:
        return move(slope, x, draw(keys, i, 0, x.shape[1:], x.dtype))

    return jax.lax.fori_loop(0, num_steps, body, x)
