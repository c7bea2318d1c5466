"""ER-SDE-Solver: the extended reverse-time SDE (arXiv 2309.06169).

Any function phi of the level for which phi(x)/x does not decrease sets how much noise a reverse SDE
with the right marginals has. Its solution between levels s > r, rho = phi(r)/phi(s), is

    y_r = rho y_s + phi(r) int_s^r D(u) d(1/phi(u)) + sqrt(r^2 - rho^2 s^2) z,

and D expanded about s gives, with D', D'' from divided differences in the level (eq. 14 to 17),

    rho y_s + (1 - rho) D + sum_k D^(k) int_r^s (phi(r)/phi(u) - 1) (u - s)^(k-1)/(k-1)! du.

phi(x) = x is the probability-flow ODE, phi(x) = x^2 the reverse SDE.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.exponential_integrator import differences
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.quadrature import RIEMANN, integral
from jaxdiff.solvers.scalar import (
    D,
    Noise,
    Scalar,
    State,
    exp,
    is_traced,
    is_zero,
    log,
    root,
    weighted,
)

Scale = Callable[[Scalar], Scalar]


def ode_scale(x: Scalar) -> Scalar:
    """Return the probability-flow ODE: no noise."""
    return x


def sde_scale(x: Scalar) -> Scalar:
    """Return phi of the reverse SDE, level^2.

    Args:
        x: the level.

    Returns:
        phi(x), the level's square.

    Source: Cui et al., Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion
    Models, arXiv 2309.06169.
    """
    return x * x


def er_scale(x: Scalar) -> Scalar:
    """The paper's choice, x (e^(x^0.3) + 10): much noise at high levels, little at low ones."""
    return x * (exp(x**0.3) + 10.0)


def er_sde(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    order: int = 3,
    scale: Scale = er_scale,
    inflate: float = 1.0,
    reference: bool = False,
) -> Iterator[State]:
    """ER-SDE-Solver-1, 2 and 3. One evaluation per step, one draw per step that adds noise.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        order: 1 to 3, the number of outputs that D is interpolated through.
        scale: phi, a function of the level: ``er_scale``, ``sde_scale``, ``ode_scale`` or another.
        inflate: factor of the noise.
        reference: as published. Integrals are left Riemann sums of 100 points, wrong by a few
            percent however small the step, so that no order is above 1 in the limit; and at order 3
            D' is the first divided difference instead of the slope of the parabola.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: if phi(x)/x decreases somewhere, which would need noise of negative variance.

    Source: Cui et al., Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion
    Models, arXiv 2309.06169.
    """
    check_order("er_sde", order)
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        growth = check_growth((scale(r) / r) / (scale(s) / s), s, r)
        history = [(s, output), *history][:order]
        derivatives = differences(r - s, history, False)
        if reference and len(derivatives) == 3:
            derivatives[1] = differences(r - s, history[:2], False)[1]
        orders = range(1, len(derivatives))
        weights = [remainder(k, s, r, scale, reference) / (r - s) ** k for k in orders]
        rho = growth * (r / s)
        y = rho * y + weighted([1.0 - rho, *weights], derivatives)
        if is_traced(growth) or growth < 1:
            y = y + inflate * r * root((1.0 - growth) * (1.0 + growth)) * noise()
        yield y


def remainder(k: int, s: Scalar, r: Scalar, scale: Scale, reference: bool) -> Scalar:
    """int_r^s (phi(r)/phi(u) - 1) (u - s)^(k-1) du for k = 1, 2, over log u; no cancellation."""
    if not reference:

        def integrand(log_u: Scalar) -> Scalar:
            u = exp(log_u)
            return u * (scale(r) / scale(u) - 1.0) * (u - s) ** (k - 1)

        return integral(integrand, log(r), log(s))
    sums = integral(lambda u: (u - s) ** (k - 1) / scale(u), r, s, RIEMANN)
    return (r - s) ** k / k + scale(r) * sums


def check_growth(growth: Scalar, s: Scalar, r: Scalar) -> Scalar:
    """Raise ValueError where phi(x)/x decreases; rounding above 1 is 1."""
    if is_traced(growth):
        return growth
    if growth > 1 + 1e-12:
        raise ValueError(
            f"scale(level)/level must not decrease; from level {r} to {s} it falls by {growth:.6g}"
        )
    return min(growth, 1.0)
