"""AMED's plug-ins: intermediate levels that were learned, put into multistep solvers.

The same step as :mod:`jaxdiff.solvers.amed`, with the slopes of iPNDM or the exponential integrator
of DPM-Solver++ in place of Euler's. Source: Zhou et al. 2024, arXiv 2312.00094.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.solvers.amed import Past, StepNumbers, march, step_numbers
from jaxdiff.solvers.exponential_integrator import (
    Prediction,
    check_prediction,
    differences,
    exponential_step,
    predicted,
)
from jaxdiff.solvers.held import value
from jaxdiff.solvers.intermediate import (
    PerStep,
    denoised_inside,
    inner_slope,
    intermediate_level,
)
from jaxdiff.solvers.orders import check_order, step_order
from jaxdiff.solvers.pndm import adams_bashforth
from jaxdiff.solvers.scalar import D, Scalar, State, is_zero, log


def amed_ipndm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
    order: int = 4,
) -> Iterator[State]:
    """AMED-Plugin on iPNDM: :func:`jaxdiff.solvers.ipndm` on the grid with the intermediate levels
    put in, the second half of every step scaled. Order 1 is the plug-in on Euler's method.

    Arguments and evaluations as for :func:`jaxdiff.solvers.amed.amed`; the order, 1 to 4, grows by
    half steps.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: as for :func:`jaxdiff.solvers.amed.amed`.
        direction: as for :func:`jaxdiff.solvers.amed.amed`.
        time: as for :func:`jaxdiff.solvers.amed.amed`.
        order: 1 to 4, the most past slopes that are used.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: as for :func:`jaxdiff.solvers.amed.amed`, or for an order that it does not have.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094.
    """
    check_order("amed_ipndm", order, 4)
    step = functools.partial(amed_ipndm_step, order=order)
    return march(step, D, y, levels, step_numbers(levels, ratios, direction, time))


def amed_ipndm_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    predict: Callable[[], StepNumbers],
    order: int = 4,
) -> tuple[State, Past]:
    """One step of :func:`amed_ipndm`; the past is slopes, newest first."""
    s, r = levels[i : i + 2]
    past = ((y - D(y, s)) / s, *past)[:order]
    if is_zero(r):
        return y + (r - s) * adams_bashforth(past), past
    ratio, direction, time = predict()
    m = intermediate_level(s, r, ratio)
    y = y + (m - s) * adams_bashforth(past)
    past = (inner_slope(D, y, m, time), *past)[:order]
    return y + direction * (r - m) * adams_bashforth(past), past


def amed_dpmpp(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    ratios: PerStep = 0.5,
    direction: PerStep = 1.0,
    time: PerStep = 1.0,
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> Iterator[State]:
    """AMED-Plugin on DPM-Solver++ or DPM-Solver multistep: :func:`jaxdiff.solvers.dpmpp` on the
    grid with the intermediate levels put in, what the second half of every step adds to (r/m) y
    (data) or y (noise) scaled.

    Arguments and evaluations as for :func:`jaxdiff.solvers.amed.amed`, and options of ``dpmpp``,
    whose steps are the half steps here.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        ratios: as for :func:`jaxdiff.solvers.amed.amed`.
        direction: as for :func:`jaxdiff.solvers.amed.amed`.
        time: as for :func:`jaxdiff.solvers.amed.amed`.
        order: 1 to 3, as for :func:`jaxdiff.solvers.dpmpp`; it grows by half steps.
        prediction: what is interpolated, "data" or "noise".
        lower_final: lower the order in the last half steps.
        second: weight of h M' in a half step of order 2, as for ``dpmpp``.
        reference: at order 3, take h^2 M'' without its factor 2, as for ``dpmpp``.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: as for :func:`jaxdiff.solvers.amed.amed`, or for a ``second`` that there is not.

    Source: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, arXiv
    2312.00094; Lu et al., DPM-Solver++, arXiv 2211.01095.
    """
    check_order("amed_dpmpp", order)
    check_prediction("amed_dpmpp", prediction)
    if second not in ("midpoint", "exact"):
        raise ValueError(f"amed_dpmpp has second 'midpoint' and 'exact', not {second!r}")
    options = {"order": order, "prediction": prediction, "lower_final": lower_final}
    step = functools.partial(amed_dpmpp_step, **options, second=second, reference=reference)
    return march(step, D, y, levels, step_numbers(levels, ratios, direction, time))


def amed_dpmpp_step(
    D: D,
    y: State,
    past: Past,
    levels: Sequence[Scalar],
    i: int,
    predict: Callable[[], StepNumbers],
    order: int = 2,
    prediction: Prediction = "data",
    lower_final: bool = True,
    second: Literal["midpoint", "exact"] = "midpoint",
    reference: bool = False,
) -> tuple[State, Past]:
    """One step of :func:`amed_dpmpp`; the past is pairs of -log level and prediction, newest
    first.
    """
    s, r = levels[i : i + 2]
    halves = 2 * (len(levels) - 1) - is_zero(levels[-1])

    def half(number: int, y: State, past: Past, output: State, s: Scalar, r: Scalar, c: Scalar):  # noqa: ANN202
        past = ((-log(s), predicted(output, y, s, prediction)), *past)[:order]
        used = list(past[: step_order(number, halves, order, lower_final)])
        derivatives = [c * d for d in differences(log(s) - log(r), used, reference)]
        return _exponential(y, s, r, derivatives, prediction, second), past

    output = D(y, s)
    if is_zero(r):
        return output, past
    ratio, direction, time = predict()
    m = intermediate_level(s, r, ratio)
    y, past = half(2 * i, y, past, output, s, m, 1.0)
    output = denoised_inside(D, y, m, time)
    return half(2 * i + 1, y, past, output, m, r, direction)


def _exponential(
    y: State, s: Scalar, r: Scalar, derivatives: list[State], prediction: Prediction, second: str
) -> State:
    """Return the exponential step, sample by sample where one of the levels is."""
    if np.ndim(s) == np.ndim(r) == 0:
        return exponential_step(y, s, r, derivatives, prediction, second)
    each = lambda y, s, r, d: exponential_step(y, s, r, d, prediction, second)  # noqa: E731
    like = value(y)
    s, r = (jnp.broadcast_to(jnp.reshape(x, -1).astype(like.dtype), like.shape[:1]) for x in (s, r))
    return jax.vmap(each)(y, s, r, derivatives)
