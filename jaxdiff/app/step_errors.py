"""Where samplers leave accurate paths, and what follows for their levels."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.analysis import convex_weights, searched_grids, truncation_errors
from jaxdiff.app.geometry import GAUSSIAN, MODEL, Study
from jaxdiff.distance import norm
from jaxdiff.grids.dynamic import best_grids
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.path import Path, follow
from jaxdiff.tuning.search.gits import jump_costs

FINER = 3  # steps of an accurate path for one of Euler's; 60 for 20, as in GITS
FEW = (1, 4, 16, 64, 256)  # trajectories that GITS is given
SOLVERS: dict[str, tuple[Any, dict[str, Any], int]] = {  # options, evaluations of a step
    "Euler": (solvers.euler, {}, 1),
    "Heun": (solvers.heun, {}, 2),
    "DPM-Solver++ 2M": (solvers.dpmpp, {"order": 2}, 1),
    "iPNDM": (solvers.ipndm, {"order": 4}, 1),
    "UniPC": (solvers.unipc, {"order": 3}, 1),
}


def check_nfe(nfe: int, num_steps: int) -> None:
    """Raise ValueError for more evaluations than the accurate path has steps."""
    if nfe > FINER * num_steps:
        raise ValueError(
            f"--nfe {nfe} levels cannot be chosen from an accurate path of {FINER * num_steps} "
            f"steps, {FINER} for each of --num-steps {num_steps}: raise that"
        )


def local_error(study: Study, nfe: int) -> tuple[dict[str, Any], list[str]]:
    """Return where Euler's steps and the states of several solvers leave accurate paths, which
    levels GITS recommends on all trajectories and on a few, and the advice that follows, in words.
    """
    low, high = float(study.levels[-1]), float(study.levels[0])
    fine, accurate = grids.karras(FINER * (len(study.levels) - 1), low, high, zero=False), {}
    for name in (MODEL, GAUSSIAN):
        one = study.subjects[name]
        solved = follow(one.denoiser, table(solvers.ipndm, fine), high * study.noise, one.cond)
        accurate[name] = solved
    recommended = {
        f"GITS, {name}": best_grids(jump_costs(path), fine, [nfe], 1.15)[0].tolist()
        for name, path in accurate.items()
    }
    recommended["Karras"] = grids.karras(nfe, low, high, zero=False).tolist()
    found = {
        "models": {name: _euler_steps(path, study.levels) for name, path in accurate.items()},
        "solvers": _solver_errors(study, accurate[MODEL], nfe),
        "recommended": recommended, "nfe": nfe,
        "of a few": {name: _of_a_few(path, fine, nfe) for name, path in accurate.items()},
    }  # fmt: skip
    return found, _advice(found["models"][MODEL], recommended, nfe)


def _of_a_few(path: Path, fine: np.ndarray, nfe: int) -> dict[str, Any]:
    """Return the levels that GITS finds on the first so many trajectories (arXiv 2405.11326: their
    shapes are so alike that a few will do).
    """
    counts = [n for n in FEW if n <= path.states.shape[1]]
    found = searched_grids(fine, path.states, path.denoised, nfe, counts=counts)
    return {"counts": counts, "levels": [grid.tolist() for grid in found.grids]}


def _euler_steps(path: Path, levels: np.ndarray) -> dict[str, Any]:
    """Return the mean error of each of Euler's steps that begins on an accurate path, whose levels
    are ``FINER`` times as many.
    """
    rows = FINER * np.arange(len(levels))
    costs = truncation_errors(path.levels, path.states, path.denoised)
    return {
        "start": float(levels[0]),
        "levels": levels[1:].tolist(),
        "error": costs[rows[:-1], rows[1:]].tolist(),
    }


def _solver_errors(study: Study, path: Path, nfe: int) -> dict[str, Any]:
    """Return how far the states of solvers of at most ``nfe`` evaluations are from the accurate
    path at their levels, and their ends from its end.
    """
    one, errors = study.subjects[MODEL], {}
    low, high = float(study.levels[-1]), float(study.levels[0])
    for name, (solver, options, evaluations) in SOLVERS.items():
        if nfe < evaluations:
            continue
        made = table(solver, grids.karras(nfe // evaluations, low, high, zero=False), **options)
        solved = trajectory(one.denoiser, made, high * study.noise, one.cond)
        apart = [
            float(jnp.mean(norm(state - path.at(level))))
            for state, level in zip(solved.states[1:], solved.levels[1:], strict=True)
        ]
        errors[name] = {
            "levels": np.asarray(made.levels)[1:].tolist(), "error": apart, "end": apart[-1],
            "nfe": made.nfe, **convexity(made),
        }  # fmt: skip
    return errors


def convexity(made: Table) -> dict[str, float]:
    """Return which share of a sampler's steps goes towards a convex combination of denoised
    outputs, and the least weight of any.
    """
    found = convex_weights(made)
    return {"convex": float(found.convex_steps.mean()), "least": float(found.steps.min())}


def _advice(steps: Mapping[str, Any], recommended: Mapping[str, Any], nfe: int) -> list[str]:
    """Return what follows from the errors of Euler's steps."""
    errors, ends = np.array(steps["error"]), np.array(steps["levels"])
    first, last = _half(errors)
    above = steps["start"] if first == 0 else ends[first - 1]
    share = errors[first : last + 1].sum() / errors.sum()
    said = [
        f"{100 * share:.0f} % of the error of Euler's {len(errors)} steps is made in "
        f"{last - first + 1} of them, between levels {above:.3g} and {ends[last]:.3g}."
    ]
    for name, grid in recommended.items():
        if name.startswith("GITS"):
            levels = ", ".join(f"{s:.3g}" for s in grid)
            said.append(f"{name} would put the levels of {nfe} steps at {levels}.")
    return said


def _half(errors: np.ndarray) -> tuple[int, int]:
    """Return the first and last of the fewest neighbouring steps that make half of all error."""
    sums, half = np.concatenate([[0.0], np.cumsum(errors)]), errors.sum() / 2
    for length in range(1, len(errors) + 1):
        made = sums[length:] - sums[:-length]
        if made.max() >= half * (1 - 1e-12):
            first = int(made.argmax())
            return first, first + length - 1
    return 0, len(errors) - 1
