r"""Bridges: processes between a sample x0 and its degraded picture m.

    x_t = (1 - b(t)) x0 + b(t) m + c(t) eps,       t from 0 (x0) to 1 (m, and noise c(1)),

Sampling draws x_r of the posterior of the forward process, r < t, which around m, z = x - m, is

    z_r = (a_r - k a_t) z0 + k z_t + sqrt(v) n,    a = 1 - b,  z0 = D(x_t, t) - m,

with k and v of the process. Less noise, of variance eta^2 v, leaves the marginal laws as they are
with k = sqrt(c_r^2 - eta^2 v)/c_t; eta = 0 is deterministic but for a start without noise.

    I2SB      Brownian bridge in the variance S(t):  b = S/S_1, c^2 = S (S_1 - S)/S_1,
              k = S_r/S_t, v = S_r (S_t - S_r)/S_t                    (Liu et al. 2302.05872, eq. 11)
    DDBM      the same with S = t^2, in the frame y = x0 + s eps      (Zhou et al. 2309.16948, table 1)
    IR-SDE    a = e^-T(t), c^2 = l^2 (1 - a^2)                        (Luo et al. 2301.11699, eq. 6)
    DriftRec  a = e^-gt, noise of exponentially growing rate          (Welker et al. 2211.06757, eq. 4)
    InDI      b = t, c^2 = e^2 t, k = r/t, v = e^2 r (1 - r/t)        (Delbracio, Milanfar 2303.11435)
    ResShift  b = h(t), c^2 = kappa^2 h, k = h_r/h_t, v = kappa^2 h_r (1 - h_r/h_t)
                                                                      (Yue et al. 2307.12348, eq. 1, 6)

IR-SDE and DriftRec are Markov: k = g c_r^2/c_t^2, v = c_r^2 (1 - g^2 c_r^2/c_t^2) with g = a_t/a_r.
"""  # noqa: E501

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.solvers.scalar import Scalar, exp, is_traced, is_zero, sqrt


class Bridge(NamedTuple):
    """A process between samples and their degraded pictures; functions of times, numbers or arrays.

    name: of the paper's method. weight: b(t). variance: c(t)^2.
    posterior: ``posterior(t, r) -> (k, v)`` for r < t.
    size: what I2SB's network predicts is (x_t - x0)/size(t); None where it is x0.
    """

    __repr__ = short

    name: str
    weight: Callable[[Scalar], Scalar]
    variance: Callable[[Scalar], Scalar]
    posterior: Callable[[Scalar, Scalar], tuple[Scalar, Scalar]]
    size: Callable[[Scalar], Scalar] | None = None


def _brownian(name: str, total: Callable[[Scalar], Scalar]) -> Bridge:
    """Return the Brownian bridge with variance ``total(t)`` before it is pinned at t = 1."""
    whole = total(1.0)

    def posterior(t: Scalar, r: Scalar) -> tuple[Scalar, Scalar]:
        late, early = total(t), total(r)
        return early / late, early * (late - early) / late

    return Bridge(
        name,
        weight=lambda t: total(t) / whole,
        variance=lambda t: total(t) * (whole - total(t)) / whole,
        posterior=posterior,
        size=lambda t: sqrt(total(t)),
    )


def _positive(*numbers: float) -> bool:
    return all(0 < n < math.inf for n in numbers)


def _markov(
    name: str, keep: Callable[[Scalar], Scalar], variance: Callable[[Scalar], Scalar]
) -> Bridge:
    """Return the bridge of a Markov process that keeps a(t) = keep(t) of the sample."""

    def posterior(t: Scalar, r: Scalar) -> tuple[Scalar, Scalar]:
        if is_zero(r):
            return 0.0, 0.0
        growth, early = keep(t) / keep(r), variance(r)
        k = growth * early / variance(t)
        return k, early * (1 - growth * k)

    return Bridge(name, lambda t: 1 - keep(t), variance, posterior)


def _shifted(name: str, share: Callable[[Scalar], Scalar], spread: float) -> Bridge:
    """Return the bridge that shifts by share(t) of the difference, with noise spread^2 share."""

    def posterior(t: Scalar, r: Scalar) -> tuple[Scalar, Scalar]:
        ratio = share(r) / share(t)
        return ratio, spread**2 * share(r) * (1 - ratio)

    return Bridge(name, share, lambda t: spread**2 * share(t), posterior)


def i2sb(low: float = 0.1, high: float = 0.3) -> Bridge:
    """Image-to-image Schroedinger bridge (arXiv 2302.05872): noise is added at a rate whose root
    rises linearly from sqrt(low) at the ends to sqrt(high) in the middle.

    Args:
        low, high: rates, positive; the paper's are 1e-4 and 3e-4 in each of 1000 steps.

    Raises ValueError for rates that are not positive and finite.
    """
    check("rates must be positive and finite", _positive, low, high)
    first, slope = math.sqrt(low), 2 * (math.sqrt(high) - math.sqrt(low))

    def below(t: Scalar) -> Scalar:  # the integral of (first + slope t)^2
        return first**2 * t + first * slope * t**2 + slope**2 * t**3 / 3

    def total(t: Scalar) -> Scalar:
        above = 2 * below(0.5) - below(1 - t)
        if is_traced(t):
            return jnp.where(t <= 0.5, below(t), above)
        return below(t) if t <= 0.5 else above

    return _brownian("i2sb", total)


def ddbm(high: float = 80.0) -> Bridge:
    """Denoising diffusion bridge of variance-exploding noise (arXiv 2309.16948, table 1): S = (high
    t)^2. A variance-preserving one is the same after dividing by its alpha.

    The authors' sampler is a hybrid of Heun and Euler-Maruyama steps; here it is the posterior's.

    Raises ValueError for a level that is not positive and finite.
    """
    check("the level at the end must be positive and finite", lambda s: 0 < s < math.inf, high)
    return _brownian("ddbm", lambda t: (high * t) ** 2)


def ir_sde(spread: float = 0.2, left: float = 0.005) -> Bridge:
    """Mean-reverting process (IR-SDE, arXiv 2301.11699): at t = 1 noise of this standard deviation
    around the degraded picture, and ``left`` of the sample.

    Deviation: theta is constant; the paper's cosine is another grid of times.

    Args:
        spread: lambda, in units of data of range 1; the paper has 10/255 to 50/255.
        left: e^-T(1), in (0, 1).

    Raises ValueError for a spread that is not positive, or another ``left``.
    """
    check("spread must be positive and finite", lambda v: 0 < v < math.inf, spread)
    check("left must be in (0, 1)", lambda v: 0 < v < 1, left)
    rate = -math.log(left)
    variance = lambda t: spread**2 * (1 - exp(-2 * rate * t))  # noqa: E731
    return _markov("ir_sde", lambda t: exp(-rate * t), variance)


def driftrec(rate: float = 1.0, low: float = 0.01, high: float = 1.0) -> Bridge:
    """Drift to the degraded picture with growing noise (DriftRec, arXiv 2211.06757, eq. 4 and 5).

    a = e^-(rate t),  c^2 = low^2 ((high/low)^2t - a^2) log(high/low)/(rate + log(high/low)).

    Args:
        rate: gamma, positive. low, high: standard deviations of the noise's rate, low < high.

    Raises ValueError for other numbers.
    """
    check("rate must be positive and finite", lambda v: 0 < v < math.inf, rate)
    check("noise grows: 0 < low < high", lambda a, b: 0 < a < b < math.inf, low, high)
    grown = math.log(high / low)
    share = low**2 * grown / (rate + grown)

    def variance(t: Scalar) -> Scalar:
        return share * (exp(2 * grown * t) - exp(-2 * rate * t))

    return _markov("driftrec", lambda t: exp(-rate * t), variance)


def indi(spread: float = 0.0) -> Bridge:
    """Inversion by direct iteration (InDI, arXiv 2303.11435): a straight line to the degraded
    picture, with Brownian noise of this standard deviation at its end.

    Raises ValueError for a negative spread.
    """
    check("spread must be finite and not negative", lambda v: 0 <= v < math.inf, spread)
    return _shifted("indi", lambda t: t, spread)


def resshift(
    kappa: float = 2.0, num_steps: int = 15, power: float = 0.3, last: float = 0.999
) -> Bridge:
    """Residual shifting (ResShift, arXiv 2307.12348, eq. 10): times are n/num_steps.

    h_1 = min((0.04/kappa)^2, 0.001), h_N = last, and in between sqrt(h_n) = sqrt(h_1) g^(N - 1)q
    with q = ((n - 1)/(N - 1))^power, g = (h_N/h_1)^(1/(2 (N - 1))).

    Args:
        kappa: positive. num_steps: N, at least 2; the grid that h is made for. power, last: p and
            h_N, in (0, 1].

    Raises ValueError for other numbers.
    """
    check("kappa and power must be positive and finite", _positive, kappa, power)
    check("last must be in (0, 1]", lambda v: 0 < v <= 1, last)
    if num_steps < 2:
        raise ValueError(f"resshift needs at least 2 steps, not {num_steps}")
    first = min((0.04 / kappa) ** 2, 0.001)

    def share(t: Scalar) -> Scalar:
        if is_zero(t):
            return 0.0
        place = (t * num_steps - 1) / (num_steps - 1)
        safe = jnp.maximum(place, 1e-12) if is_traced(place) else max(place, 0.0)
        found = exp(math.log(first) + safe**power * math.log(last / first))
        if is_traced(t):  # below the first step in proportion to the time
            return jnp.where(place > 0, found, first * t * num_steps)
        return found if place > 0 else first * t * num_steps

    return _shifted("resshift", share, kappa)
