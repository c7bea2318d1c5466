"""A tuned table as the lists that a scheduler of diffusers takes.

A scheduler takes its noise levels (``set_timesteps(sigmas=...)``) or its timesteps
(``set_timesteps(timesteps=...)``) from outside, and nothing else of a sampler: a table whose
weights, or whose evaluations, are not those of the class at any list of levels has no such list.
How far it is off is measured on the samplers as linear maps of the start and the denoised outputs,
whose coefficients are compared.
"""

from typing import Any

import numpy as np

from jaxdiff.arrays import check
from jaxdiff.pretrained.scheduler import Scheduler
from jaxdiff.process import discrete_label, level, time
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table

SIGMAS = ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
TIMESTEPS = (
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "HeunDiscreteScheduler",
)  # fmt: skip


def scheduler_lists(chosen: Table, scheduler: Scheduler, tolerance: float = 1e-3) -> dict[str, Any]:
    """Return {"scheduler", "sigmas" or "timesteps", "error"} of a table.

    Args:
        chosen: a deterministic table.
        scheduler: of the model: its class and options say what is taken from outside. Euler's take
            sigmas, of a flow its times; DPM-Solver's and Heun's take whole timesteps, to whose
            levels the table's are moved.
        tolerance: of the largest difference between the coefficients of the table and of the
            class's sampler on the list, relative to the largest coefficient.

    Returns:
        "scheduler", the class and its options; "sigmas" or "timesteps", the list; "error", the
        largest difference of coefficients.

    Raises:
        ValueError: for a class that takes neither, a stochastic table, and one that is further from
            the class's sampler than ``tolerance``, with the difference.
    """
    check("tolerance must be positive", lambda x: x > 0, tolerance)
    name = scheduler.name
    if name not in (*SIGMAS, *TIMESTEPS):
        raise ValueError(
            f"{name} takes no list; {', '.join((*SIGMAS, *TIMESTEPS))} take one: give the model "
            "another scheduler by with_scheduler"
        )
    if chosen.stochastic:
        raise ValueError("a stochastic table draws noise that no list says")
    levels = np.asarray(chosen.levels, np.float64)
    said, used = (_sigmas if name in SIGMAS else _timesteps)(scheduler, levels)
    plan = scheduler.plan(len(used) - 1)
    own = table(plan.solver, used, **plan.options)
    error = _difference(chosen, own)
    if not error <= tolerance:
        raise ValueError(
            f"{chosen!r} is not {name} at any levels: at its own the coefficients differ by "
            f"{error:.2g} of the largest (allowed: {tolerance:.2g}). Keep it as a table, or tune "
            "the levels of that solver alone"
        )
    return {"scheduler": name, **said, "error": error}


def _sigmas(scheduler: Scheduler, levels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return a scheduler's sigmas, and the levels that they are: its own, or a flow's times."""
    if not scheduler.name.startswith("Flow"):
        return {"sigmas": levels.tolist()}, levels
    times = (levels / (1 + levels))[:-1]
    shift = 1.0 if scheduler.config.get("use_dynamic_shifting") else scheduler.config["shift"]
    return {"sigmas": (times / (shift - (shift - 1) * times)).tolist()}, levels  # before its shift


def _timesteps(scheduler: Scheduler, levels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the nearest whole timesteps, and their levels."""
    process: Any = scheduler.process
    count = int(scheduler.config["num_train_timesteps"])
    times = np.asarray(time(process, levels[:-1].astype(np.float32)))
    steps = np.asarray(discrete_label(count)(times)).astype(int)
    if np.any(np.diff(steps) >= 0):
        raise ValueError(f"levels {levels[:-1]} are not at timesteps of their own: {steps}")
    used = np.asarray(level(process, ((steps + 1) / count).astype(np.float32)), np.float64)
    return {"timesteps": steps.tolist()}, np.append(used, levels[-1])


def _difference(a: Table, b: Table) -> float:
    """Return the largest difference of two samplers' coefficients, relative to the largest, and
    infinity for other numbers of evaluations.
    """
    if a.nfe != b.nfe:
        return float("inf")
    first, second = _coefficients(a), _coefficients(b)
    nodes = np.abs(np.asarray(a.nodes, np.float64) / np.asarray(b.nodes, np.float64) - 1).max()
    return float(max(nodes, np.abs(first - second).max() / np.abs(second).max()))


def _coefficients(chosen: Table) -> np.ndarray:
    """Return the states that are evaluated, and the last one, each as weights of the start and the
    denoised outputs: (N + 1, N + 1).
    """
    count = chosen.nfe
    unit = np.eye(count + 1)
    past, outputs, found = [unit[0]], [], []
    states, denoised = np.asarray(chosen.states), np.asarray(chosen.denoised)
    for n in range(count + 1):
        for row, weights in zip(states[n], denoised[n], strict=True):
            made = sum((w * x for w, x in zip(row, past, strict=False)), 0 * unit[0])
            made = made + sum((w * x for w, x in zip(weights, outputs, strict=False)), 0 * unit[0])
            past.insert(0, made)
        found.append(past[0])
        if n < count:
            outputs.insert(0, unit[n + 1])
    return np.stack(found)
