"""Observed orders of convergence, on a Gaussian, where everything about a solver is closed-form.

A deterministic solver's error is that of its final state against the exact flow. A multistep
solver is given exact history first (evaluated on the exact trajectory, its states put back onto
it), so that what is measured is the method and not its start. A stochastic solver is linear in its
start and its noises, so the variance of what it returns is a sum of squares: run on unit vectors,
the solver gives it without any sampling.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.samplers.rows import GRIDS, Row

VARIANCES = np.array([0.04, 0.25, 1.0, 2.5])
LOW, HIGH = 0.05, 20.0
STEPS = (40, 80, 160)


def denoiser(variances: np.ndarray) -> Callable[[Any, Any], Any]:
    """Return the denoiser of N(0, variances)."""
    return lambda y, s: variances / (variances + s * s) * y


def flow(variances: np.ndarray, y: np.ndarray, s: float, r: float) -> np.ndarray:
    """Return the exact solution at level r of the probability-flow ODE through y at level s."""
    return y * np.sqrt((variances + r * r) / (variances + s * s))


def state_error(solver: Any, options: dict[str, Any], levels: Any, history: int = 0) -> float:
    """Root mean square error of the final state over the modes of N(0, VARIANCES)."""
    levels = [float(s) for s in levels]
    start, D = np.full(len(VARIANCES), levels[0]), denoiser(VARIANCES)
    exact = lambda s: flow(VARIANCES, start, levels[0], s)  # noqa: E731
    on_exact = lambda y, s: D(exact(s) if s >= levels[history] else y, s)  # noqa: E731
    y = start
    for i, y in enumerate(solver(on_exact if history else D, start.copy(), levels, **options), 1):
        if i <= history:
            y[...] = exact(levels[i])
    return float(np.sqrt(np.mean((y - exact(levels[-1])) ** 2)))


def outcome(solver: Any, options: dict[str, Any], levels: Any, variances: np.ndarray) -> np.ndarray:
    """Variance of the final state, mode by mode, when the start has its exact one."""
    levels = [float(s) for s in levels]
    made: list[int] = []

    def unit() -> np.ndarray:
        made.append(0)
        return np.eye(1, size, len(made)).T * np.ones_like(variances)

    stochastic = "noise" in inspect.signature(solver).parameters
    size = 1 + (_draws(solver, options, levels) if stochastic else 0)
    start = np.eye(1, size, 0).T * np.sqrt(variances + levels[0] ** 2)
    extra = {"noise": unit} if stochastic else {}
    *_, y = solver(denoiser(variances), start, levels, **extra, **options)
    return np.sum(y**2, axis=0)


def _draws(solver: Any, options: dict[str, Any], levels: list[float]) -> int:
    drawn: list[float] = []

    def noise() -> float:
        drawn.append(0.0)
        return 0.0

    for _ in solver(lambda y, s: y, 1.0, levels, noise=noise, **options):
        pass
    return len(drawn)


def observed(row: Row) -> tuple[float, list[float]]:
    """Slope of log error against log steps, and the errors."""
    options, steps = row.options | (row.refined or {}), [row.finer * n for n in STEPS]
    errors = []
    if "lower_final" in inspect.signature(row.solver).parameters:  # or it would be what is seen
        options = options | {"lower_final": False}
    if row.grid == "VP time":  # the time in which it interpolates, over this range
        options = options | {"low": LOW, "high": HIGH}
    for n in steps:
        levels = GRIDS["karras"](n, LOW, HIGH, False)
        if row.stochastic:
            spread = np.sqrt(outcome(row.solver, options, levels, VARIANCES))
            errors.append(float(np.sqrt(np.mean((spread - np.sqrt(VARIANCES + LOW**2)) ** 2))))
        else:
            errors.append(state_error(row.solver, options, levels, row.history))
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0]), errors
