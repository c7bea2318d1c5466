"""Exponential solvers of the reverse SDE.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.ancestral import ancestral_levels
from jaxdiff.solvers.exponential import check_order, differences
from jaxdiff.solvers.quadrature import phi
from jaxdiff.solvers.scalar import (
    D,
    Noise,
    Scalar,
    State,
    exp,
    expm1,
    is_zero,
    log,
    sqrt,
    weighted,
)


def sde_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    order: int = 2,
    eta: float = 1.0,
    inflate: float = 1.0,
    second: str = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """SDE-DPM-Solver++ multistep (arXiv 2211.01095, section 5): the data-predicting reverse SDE.

    With h the step in -log level and z = -(1 + eta) h,

        y_r = (r/s) e^(-eta h) y + (1 - e^z) M + second and third order terms in D's derivatives
            + r sqrt(1 - e^(-2 eta h)) noise.

    eta 0 is the ODE, 1 the reverse SDE. One draw per step that does not end at level 0 (none for
    eta 0).

    Args:
        order: 1 to 3.
        second: at order 2, weight of h M': "midpoint" has (1 - e^z)/2, "exact" the integral itself.
        reference: at order 3, h^2 M'' without its factor 2, as in all published code.
    """
    check_options("sde_dpmpp", order, second)
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        history = [(-log(s), output), *history][:order]
        h = log(s) - log(r)
        z = -(1.0 + eta) * h
        derivatives = differences(h, history, reference)
        weights = [-expm1(z), *((-z) * phi(k, z) for k in range(2, len(derivatives) + 1))]
        if order == 2 and len(derivatives) == 2 and second == "midpoint":
            weights[1] = -expm1(z) / 2
        y = (r / s) * exp(-eta * h) * y + weighted(weights, derivatives)
        if eta > 0:
            y = y + inflate * r * sqrt(-expm1(-2.0 * eta * h)) * noise()
        yield y


def sde_dpm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    order: int = 2,
    eta: float = 1.0,
    inflate: float = 1.0,
    second: str = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """SDE-DPM-Solver multistep (arXiv 2211.01095, section 5): the noise-predicting reverse SDE.

    With h the step in -log level and eps = (y - D)/s,

        y_r = y - (1 + eta) r ((e^h - 1) eps + second and third order terms in eps's derivatives)
            + sqrt(eta (s^2 - r^2)) noise.

    Options and draws as for :func:`sde_dpmpp`, whose data prediction does better in few steps.
    """
    check_options("sde_dpm", order, second)
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        history = [(-log(s), (y - output) / s), *history][:order]
        h = log(s) - log(r)
        derivatives = differences(h, history, reference)
        weights = [expm1(h), *(h * phi(k, h) for k in range(2, len(derivatives) + 1))]
        if order == 2 and len(derivatives) == 2 and second == "midpoint":
            weights[1] = expm1(h) / 2
        y = y - (1.0 + eta) * r * weighted(weights, derivatives)
        if eta > 0:
            y = y + inflate * sqrt(eta * (s - r) * (s + r)) * noise()
        yield y


def check_options(solver: str, order: int, second: str) -> None:
    """Complain about an order or a weight that an SDE solver does not have."""
    check_order(solver, order, "data")
    if second not in ("midpoint", "exact"):
        raise ValueError(f"{solver} has second 'midpoint' and 'exact', not {second!r}")


def sde_dpmpp_2s(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    eta: float = 1.0,
    inflate: float = 1.0,
    ratio: float = 0.5,
) -> Iterator[State]:
    """SDE-DPM-Solver++ single-step of order 2, as in k-diffusion's dpmpp_sde.

    An ancestral first-order step to the level s^(1 - ratio) r^ratio, then one over the whole step
    with the output extrapolated from both. Two evaluations per step, one in a step to level 0; two
    draws per step (middle, then end).
    """
    fraction = 1.0 / (2.0 * ratio)
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        middle = s ** (1 - ratio) * r**ratio
        down, up = ancestral_levels(s, middle, eta)
        between = (down / s) * y + (1.0 - down / s) * output
        if eta > 0:
            between = between + inflate * up * noise()
        output = (1.0 - fraction) * output + fraction * D(between, middle)
        down, up = ancestral_levels(s, r, eta)
        y = (down / s) * y + (1.0 - down / s) * output
        if eta > 0:
            y = y + inflate * up * noise()
        yield y
