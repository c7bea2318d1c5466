"""SA-Solver: stochastic Adams methods (arXiv 2309.05019), predictor and corrector for the SDE.

With lambda = -log level, the SDE whose noise has strength tau (0 the probability-flow ODE, 1 the
reverse SDE, larger allowed) has between levels s > r, with h = log s - log r and k = 1 + tau^2, the
solution

    y_r = e^(-tau^2 h) (r/s) y_s + k int e^(k (lambda - lambda_r)) D dlambda
        + r sqrt(1 - e^(-2 tau^2 h)) z,

for tau constant on the step (its value at the lower level is taken). D is interpolated in lambda
and the exponential integrated exactly. tau^2 is what :func:`jaxdiff.solvers.sde_dpmpp.sde_dpmpp`
calls eta. A step to level 0 returns the denoised output.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.quadrature import integral, lagrange
from jaxdiff.solvers.scalar import (
    D,
    Noise,
    Scalar,
    State,
    between,
    exp,
    expm1,
    is_traced,
    is_zero,
    log,
    root,
    weighted,
)

LOW, HIGH = 0.72, 25.1  # levels of the linear VP process at its times 0.2 and 0.8


def sa_solver(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    predictor: int = 3,
    corrector: int = 4,
    tau: float | Callable[[Scalar], Scalar] = 1.0,
    low: float = LOW,
    high: float = HIGH,
    inflate: float = 1.0,
    lower_final: bool = True,
    reference: bool = False,
) -> Iterator[State]:
    """SA-Solver in its mode PEC: one evaluation per step, at the predicted state.

    The corrector reuses that evaluation and the predictor's noise; the last step is deterministic
    and not corrected. One draw per step of positive tau. The paper recommends orders 3 and 4, and 2
    and 2 under strong guidance.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: state at ``levels[0]``, (batch, *shape).
        levels: decreasing noise levels of the grid, one more than steps.
        noise: ``noise()``, standard normal numbers of the state's shape, new in every call.
        predictor: number of past outputs interpolated, 1 to 4.
        corrector: number of outputs with the new one among them, 1 to 4; 0 does not correct.
        tau: strength of the noise at levels within [low, high], 0 elsewhere; or a function of the
            level, which then stands alone. The default range is that of the paper's text-to-image
            models, time in [0.2, 0.8]; for EDM models it has [0.05, 1].
        low, high: levels between which tau is the strength given, unless it is a function.
        inflate: factor of the noise.
        lower_final: lower the orders in the last steps.
        reference: with two nodes, h/2 in place of the exact weight of D's slope, the published
            rescaling for few steps (appendix D), of the same order.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Raises:
        ValueError: for an order that it does not have, or a negative tau.

    Source: Xue et al., SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models,
    arXiv 2309.05019.
    """
    check_orders(predictor, corrector)
    if not callable(tau) and not is_traced(tau) and not tau >= 0:
        raise ValueError(f"sa_solver needs tau >= 0, not {tau}")
    num_steps = len(levels) - 1
    history = [(-log(levels[0]), D(y, levels[0]))]  # newest first, at predicted states
    for i, (s, r) in enumerate(pairwise(levels)):
        last, left = i == num_steps - 1, num_steps - i if lower_final else num_steps
        if is_zero(r):
            yield history[0][1]
            return
        strength = 0.0 if last else tau(r) if callable(tau) else tau * between(r, low, high)
        growth, h = strength * strength, log(s) - log(r)
        base = exp(-growth * h) * (r / s) * y
        if is_traced(growth) or growth > 0:
            base = base + inflate * r * root(-expm1(-2.0 * growth * h)) * noise()
        predicted = base + adams(history[: min(predictor, left)], h, -log(r), growth, reference)
        if last or not corrector:
            yield predicted
        if last:
            return
        history = [(-log(r), D(predicted, r)), *history][: max(predictor, corrector)]
        used = history[: min(corrector, left + 1)]
        y = base + adams(used, h, -log(r), growth, reference) if corrector else predicted
        if corrector:
            yield y


def adams(
    history: list[tuple[Scalar, State]], h: Scalar, end: Scalar, growth: Scalar, reference: bool
) -> State:
    """K int_{end - h}^{end} e^(k (lambda - end)) D dlambda, D interpolated through the history."""
    times, outputs = zip(*history, strict=True)
    k = 1.0 + growth
    kernel = lambda t: k * exp(k * (t - end))  # noqa: E731
    weights = [
        integral(lambda t, j=j: kernel(t) * lagrange(times, j, t), end - h, end)
        for j in range(len(times))
    ]
    if reference and len(times) == 2:
        change = (k * h * h / 2 - (k * h + expm1(-k * h)) / k) / (times[0] - times[1])
        weights = [weights[0] + change, weights[1] - change]
    return weighted(weights, outputs)


def check_orders(predictor: int, corrector: int) -> None:
    """Raise ValueError for orders that SA-Solver does not have."""
    if predictor not in (1, 2, 3, 4):
        raise ValueError(f"sa_solver has predictors of order 1 to 4, not {predictor}")
    if corrector not in (0, 1, 2, 3, 4):
        raise ValueError(
            f"sa_solver has correctors of order 1 to 4, or 0 for none; not {corrector}"
        )
