"""Exponential solvers of the reverse SDE.

Stochastic generators take one more argument than deterministic ones: ``noise``, a function whose
every call gives a new standard normal vector. Each documents how many it draws, and in which order.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.ancestral import ancestral_levels, check_eta
from jaxdiff.solvers.exponential_integrator import (
    Prediction,
    adams,
    check_prediction,
    differences,
    predicted,
)
from jaxdiff.solvers.intermediate import check_ratios
from jaxdiff.solvers.orders import check_order
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, exp, expm1, is_zero, log, root


def sde_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    order: int = 2,
    eta: float = 1.0,
    inflate: float = 1.0,
    prediction: Prediction = "data",
    second: str = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """SDE-DPM-Solver++ multistep (data prediction, arXiv 2211.01095, section 5) and SDE-DPM-Solver
    multistep (noise prediction).

    With h the step in -log level and z = -(1 + eta) h (data) or h (noise),

        data:   y_r = (r/s) e^(-eta h) y - A(z) + r sqrt(1 - e^(-2 eta h)) noise
        noise:  y_r = y - (1 + eta) r A(z) + sqrt(eta (s^2 - r^2)) noise,

    A the sum of :func:`jaxdiff.solvers.exponential_integrator.adams` over M = D or eps and its
    derivatives. eta 0 is the ODE, 1 the reverse SDE. One draw per step that does not end at level 0
    (none for eta 0). Noise prediction is far worse in few steps.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        order: 1 to 3.
        eta: strength of the noise: 0 is the ODE, 1 the reverse SDE.
        inflate: factor of the noise.
        prediction: what is interpolated, "data" or "noise".
        second: at order 2, weight of h M': "midpoint" is phi_1/2, "exact" the integral itself.
        reference: at order 3, h^2 M'' without its factor 2, as in all published code.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order, prediction or ``second`` that it does not have, or a negative eta.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, section 5.
    """
    check_order("sde_dpmpp", order)
    check_prediction("sde_dpmpp", prediction)
    if not eta >= 0:
        raise ValueError(f"sde_dpmpp needs eta >= 0, not {eta}")
    if second not in ("midpoint", "exact"):
        raise ValueError(f"sde_dpmpp has second 'midpoint' and 'exact', not {second!r}")
    history: list[tuple[Scalar, State]] = []
    for s, r in pairwise(levels):
        output = D(y, s)
        if is_zero(r):
            yield output
            return
        history = [(-log(s), predicted(output, y, s, prediction)), *history][:order]
        h = log(s) - log(r)
        z = -(1.0 + eta) * h if prediction == "data" else h
        change = adams(z, differences(h, history, reference), second if order == 2 else "exact")
        if prediction == "data":
            y = (r / s) * exp(-eta * h) * y - change
            width = r * root(-expm1(-2.0 * eta * h))
        else:
            y = y - (1.0 + eta) * r * change
            width = root(eta * (s - r) * (s + r))
        if eta > 0:
            y = y + inflate * width * noise()
        yield y


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
    draws per step (intermediate level, then end).

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        eta: strength of the noise: 0 none, 1 the reverse SDE.
        inflate: factor of the noise.
        ratio: in (0, 1), where in the step's log level the intermediate level is.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an eta outside [0, 1], or a ratio outside (0, 1).

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095.
    """
    check_eta("sde_dpmpp_2s", eta)
    check_ratios([ratio])
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
