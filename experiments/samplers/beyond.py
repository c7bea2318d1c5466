"""Sampling without a fixed grid, on the mixture: adaptive steps, and windows evaluated at once.

What such a solve costs is known only afterwards: evaluations of each sample, their mean, and the
largest number of calls of the denoiser one after another, which is what a batch waits for.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.samplers.problems import HIGH, LOW, Problem
from jaxdiff import grids, solvers


class Solve(NamedTuple):
    """One line: mean evaluations, calls in sequence, and the error of the state as elsewhere."""

    name: str
    nfe: float
    calls: int
    state: float


def line(problem: Problem, name: str, states: Any, nfe: Any, calls: Any) -> Solve:
    """Compare states with the exact flow."""
    exact = problem.flowed[: len(states)]
    error = jnp.sqrt(jnp.mean(jnp.sum((states - exact) ** 2, axis=1))) / problem.scale
    return Solve(name, float(np.mean(nfe)), int(np.max(calls)), float(error))


def adaptive_lines(problem: Problem, count: int = 1024) -> list[Solve]:
    """Error control: a general Runge-Kutta pair, and the pair of DPM-Solver."""
    D, start = problem.denoiser, problem.start[:count]
    lines = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-5):
        out = jd.adaptive(D, start, HIGH, LOW, rtol=tolerance, atol=tolerance, denoise=True)
        lines.append(line(problem, f"adaptive {tolerance:g}", out.states, out.nfe, out.nfe))
    cases: tuple[tuple[Literal["noise", "data"], float], ...]
    cases = (("noise", 0.05), ("data", 0.05), ("data", 0.005))
    for prediction, tolerance in cases:
        out = jd.dpm_adaptive(
            D, start, HIGH, LOW, prediction=prediction, rtol=tolerance, atol=tolerance / 6,
            denoise=True,
        )  # fmt: skip
        name = f"dpm_adaptive {prediction} {tolerance:g}"
        lines.append(line(problem, name, out.states, out.nfe, out.nfe))
    return lines


def parallel_lines(problem: Problem, count: int = 1024) -> list[Solve]:
    """Picard iteration on a table against running it step by step."""
    D, start = problem.denoiser, problem.start[:count]
    lines = []
    for made in (
        jd.table(solvers.euler, grids.karras(100, LOW, HIGH)),
        jd.table(solvers.unipc, grids.log_snr(20, LOW, HIGH)),
    ):
        name = f"{made.name}, {made.nfe} steps"
        lines.append(line(problem, name, jd.sample(D, made, start), made.nfe, made.nfe))
        out = jd.picard(D, made, start, window=made.nfe)
        lines.append(line(problem, f"picard, {name}", out.states, out.nfe, out.rounds))
    return lines
