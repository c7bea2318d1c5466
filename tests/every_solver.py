"""Every solver that becomes a table, with the options that conformance tests run it with.

A new solver joins here, and in the list of test_orders or of the marginals in test_sampling.
"""

from jaxdiff import solvers

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
]
ALL = DETERMINISTIC + STOCHASTIC


def name(value):
    """A parameter of a test, as its identifier shows it."""
    if isinstance(value, dict):
        return ",".join(str(getattr(v, "__name__", v)) for v in value.values())
    return getattr(value, "__name__", None) or str(value)
