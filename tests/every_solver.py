"""Every solver that becomes a table, with the options that conformance tests run it with.

A new solver joins here, and in the list of test_orders or of the marginals in test_sampling.
"""

from jaxdiff import process, solvers

DETERMINISTIC = [
    (solvers.euler, {}),
    (solvers.heun, {}),
    (solvers.dpm2, {}),
    (solvers.dpm2, {"ratio": 0.3}),
    (solvers.lms, {"order": 3}),
    (solvers.ipndm, {"order": 4}),
    (solvers.ipndm_v, {"order": 4, "reference": True}),
    (solvers.deis, {"order": 3}),
    (solvers.dpmpp, {"order": 1}),
    (solvers.dpmpp, {"order": 2}),
    (solvers.dpmpp, {"order": 3}),
    (solvers.dpmpp, {"order": 3, "prediction": "noise", "lower_final": False}),
    (solvers.unipc, {"order": 1}),
    (solvers.unipc, {"order": 2, "variant": "bh1"}),
    (solvers.unipc, {"order": 3}),
    (solvers.unipc, {"order": 3, "prediction": "noise"}),
    (solvers.unipc, {"order": 3, "variant": "vary"}),
    (solvers.unipc, {"order": 3, "corrector": False}),
    (solvers.unipc, {"order": 3, "variant": "vary", "reference": True}),
    (solvers.dpmpp, {"order": 2, "second": "exact"}),
    (solvers.heun, {"ratio": 2 / 3}),
    (solvers.dpm_solver, {"order": 1}),
    (solvers.dpm_solver, {"order": 2, "prediction": "data"}),
    (solvers.dpm_solver, {}),
    (solvers.dpm_solver, {"order": 3, "prediction": "data"}),
    (solvers.dpm_solver, {"order": 3, "variant": "taylor", "ratios": (0.25, 2 / 3)}),
    (solvers.dpm_solver, {"order": 3, "prediction": "data", "reference": True}),
    (solvers.pndm, {"order": 4}),
    (solvers.pndm, {"warm_up": "heun"}),
    (solvers.deis, {"order": 3, "variable": "log_level"}),
    (solvers.flow_heun, {}),
    (solvers.flow_midpoint, {}),
    (solvers.flow_lms, {"order": 3}),
    (solvers.probability_flow, {"process": process.VP()}),
    (solvers.edict, {}),
    (solvers.bdia, {}),
    (solvers.bdia, {"gamma": 0.8, "frame": "ve"}),
    (solvers.amed, {"middles": 0.4}),
    (solvers.amed_dpm2, {"middles": 0.4}),
    (solvers.amed_ipndm, {}),
    (solvers.amed_dpmpp, {}),
    (solvers.epd, {}),
    (solvers.bespoke, {"order": 1}),
]
STOCHASTIC = [
    (solvers.ddim, {"eta": 1.0}),
    (solvers.ddim, {"eta": 0.5}),
    (solvers.ddpm, {"variance": "small"}),
    (solvers.ddpm, {"variance": "large"}),
    (solvers.churn, {"amount": 10.0}),
    (solvers.churn, {"amount": 10.0, "step": solvers.euler_step}),
    (solvers.consistency, {}),
    (solvers.dpm2_ancestral, {"eta": 0.7}),
    (solvers.dpmpp_2s_ancestral, {}),
    (solvers.sde_dpmpp, {"order": 2}),
    (solvers.sde_dpmpp, {"order": 3, "eta": 0.5}),
    (solvers.sde_dpmpp_2s, {}),
    (solvers.sde_dpmpp, {"prediction": "noise"}),
    (solvers.sa_solver, {"low": 0.0, "high": 100.0}),
    (solvers.sa_solver, {"predictor": 2, "corrector": 2}),
    (solvers.er_sde, {}),
    (solvers.er_sde, {"order": 2, "scale": solvers.sde_scale}),
    (solvers.er_sde, {"reference": True}),
    (solvers.restart, {"intervals": [(0.3, 2.0, 2, 2)]}),
    (solvers.predictor_corrector, {}),
    (solvers.predictor_corrector, {"predictor": "none", "corrector_steps": 2}),
    (solvers.analytic_dpm, {"moments": lambda s: s * s / (1.0 + s * s)}),
    (solvers.tcd, {}),
]
ALL = DETERMINISTIC + STOCHASTIC


def name(value):
    """A parameter of a test, as its identifier shows it."""
    if isinstance(value, dict):
        shown = [str(getattr(v, "__name__", v)) for v in value.values()]
        return ",".join(shown).replace("<lambda>", "function")
    return getattr(value, "__name__", None) or str(value)
