"""The Jacobian of denoised outputs: its asymmetry, 0 for those of a density, its largest singular
value, how steep they are, and its trace, the dimensions that they keep.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxdiff import analysis
from jaxdiff.app.geometry import FINITE, GAUSSIAN, MODEL, Study, Subject, over_levels
from jaxdiff.sampling.sample import Trajectory
from jaxdiff.typing import Array

SAMPLES = 8  # trajectories whose Jacobians are taken
PROBES = 8  # random ones for each; the unit vectors, exactly, of samples of no more numbers
ITERATIONS = 10  # of the power iteration, whose values come from below


def jacobians(study: Study, seed: int) -> dict[str, Any]:
    """Return |J - J^T|/|J|, the largest singular value and tr J of J = dD/dx along the paths of the
    model, the Gaussian and the finite data set.

    The outputs of an optimal denoiser are the gradient of a function (x^2/2 + s^2 log p), so that
    its J is symmetric; the Gaussian's ratio is what rounding leaves. The finite data set has none:
    where it has one neighbour its J is 0.
    """
    probes = PROBES if study.noise[0].size > PROBES else None
    models = {
        name: _of_path(
            one, study.paths[name].path, probes, jax.random.key(seed), ratio=name != FINITE
        )
        for name, one in study.subjects.items()
        if name in (MODEL, GAUSSIAN, FINITE)
    }
    return {"samples": min(SAMPLES, len(study.noise)), "probes": probes, "models": models}


def _of_path(
    one: Subject, path: Trajectory, probes: int | None, key: Array, ratio: bool
) -> dict[str, Any]:
    """Return the three of a subject at the states of its first trajectories, over the levels."""
    states = path.states[:, :SAMPLES]
    cond = None if one.cond is None else one.cond[:SAMPLES]
    random = {} if probes is None else {"probes": probes, "key": key}
    measures: dict[str, Callable[..., Array]] = {
        "steepness": lambda *given: analysis.singular_values(
            *given, key=key, iterations=ITERATIONS
        )[:, 0],
        "trace": lambda *given: analysis.jacobian_trace(*given, **random),
    }
    if ratio:
        measures["asymmetry"] = lambda *given: analysis.jacobian_asymmetry(*given, **random).ratio
    return {
        name: over_levels(
            path.levels,
            [
                jax.device_get(measure(one.denoiser, x, level, cond))
                for x, level in zip(states, path.levels, strict=True)
            ],
        )
        for name, measure in measures.items()
    }
