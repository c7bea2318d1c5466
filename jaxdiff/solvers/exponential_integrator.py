"""Exponential integrators of the probability-flow ODE, in lambda = -log s.

The solution between levels s > r has two forms,

    y_r = y_s - r int e^(lambda_r - lambda) eps dlambda               (noise prediction)
    y_r = (r/s) y_s + r int_{-log s}^{-log r} e^lambda D dlambda      (data prediction),

of which the predicted quantity M, eps or D, is expanded in lambda and the exponential is integrated
exactly: with h = log s - log r the step in lambda,

    data:   y_r = (r/s) y + h [phi_1(-h) M + phi_2(-h) (h M') + phi_3(-h) (h^2 M'')]
    noise:  y_r = y - r h [phi_1(h) M + phi_2(h) (h M') + phi_3(h) (h^2 M'')].

DPM-Solver, DPM-Solver++, their stochastic forms and ER-SDE differ in where M' and M'' come from.
"""

from collections.abc import Sequence
from typing import Literal

from jaxdiff.solvers.quadrature import phi
from jaxdiff.solvers.scalar import Scalar, State, expm1, log

Prediction = Literal["data", "noise"]


def check_prediction(solver: str, prediction: str) -> None:
    """Raise ValueError for what a solver does not interpolate."""
    if prediction not in ("data", "noise"):
        raise ValueError(f"{solver} predicts 'data' or 'noise', not {prediction!r}")


def predicted(output: State, y: State, s: Scalar, prediction: Prediction) -> State:
    """Return what is interpolated, of a denoised output of y: itself ("data") or eps ("noise")."""
    return output if prediction == "data" else (y - output) / s


def adams(z: Scalar, derivatives: Sequence[State], second: str = "exact") -> State:
    """Z (phi_1 M + phi_2 (h M') + phi_3 (h^2 M'')) at z, the integrated exponential; a "midpoint"
    step of order 2 has phi_1/2 for phi_2 (2211.01095, algorithm 2).
    """
    total = expm1(z) * derivatives[0]
    if len(derivatives) == 2 and second == "midpoint":
        return total + (expm1(z) / 2) * derivatives[1]
    return total + sum(z * phi(k, z) * d for k, d in enumerate(derivatives[1:], 2))


def exponential_step(
    y: State,
    s: Scalar,
    r: Scalar,
    derivatives: Sequence[State],
    prediction: Prediction,
    second: str = "exact",
) -> State:
    """Return the step from level s to r given M, h M', h^2 M'' of the predicted quantity at s."""
    h = log(s) - log(r)
    if prediction == "data":
        return (r / s) * y - adams(-h, derivatives, second)
    return y - r * adams(h, derivatives, second)


def differences(h: Scalar, history: list[tuple[Scalar, State]], reference: bool) -> list[State]:
    """M, h M', h^2 M'' by divided differences over one to three past values."""
    times, values = zip(*history, strict=True)
    if len(values) == 1:
        return [values[0]]
    r0 = (times[0] - times[1]) / h
    first = (values[0] - values[1]) / r0
    if len(values) == 2:
        return [values[0], first]
    r1 = (times[1] - times[2]) / h
    change = (first - (values[1] - values[2]) / r1) / (r0 + r1)
    return [values[0], first + r0 * change, change if reference else 2.0 * change]
