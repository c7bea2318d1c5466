"""The Jacobian of denoised outputs: its asymmetry, 0 for those of a density, and its trace, the
dimensions that they keep.
"""

from typing import Any

import jax

from jaxdiff import analysis
from jaxdiff.app.geometry import GAUSSIAN, MODEL, Study, over_levels

SAMPLES = 8  # trajectories whose Jacobians are taken
PROBES = 8  # random ones for each; the unit vectors, exactly, of samples of no more numbers


def jacobians(study: Study, seed: int) -> dict[str, Any]:
    """Return |J - J^T|/|J| and tr J of J = dD/dx along the paths of the model and the Gaussian.

    The outputs of an optimal denoiser are the gradient of a function (x^2/2 + s^2 log p), so that
    its J is symmetric; the Gaussian's ratio is what rounding leaves.
    """
    size = study.noise[0].size
    random = {"probes": PROBES, "key": jax.random.key(seed)} if size > PROBES else {}
    models = {}
    for name in (MODEL, GAUSSIAN):
        one, states = study.subjects[name], study.paths[name].path.states[:, :SAMPLES]
        cond = None if one.cond is None else one.cond[:SAMPLES]
        ratios, traces = [], []
        for x, level in zip(states, study.levels, strict=True):
            given = one.denoiser, x, float(level), cond
            ratios.append(jax.device_get(analysis.jacobian_asymmetry(*given, **random).ratio))
            traces.append(jax.device_get(analysis.jacobian_trace(*given, **random)))
        models[name] = {
            "asymmetry": over_levels(study.levels, ratios),
            "trace": over_levels(study.levels, traces),
        }
    probes = PROBES if random else None
    return {"samples": min(SAMPLES, len(study.noise)), "probes": probes, "models": models}
