"""Every solver with its usual options, the order it is known to have, and its usual grid.

The order of a deterministic solver is that of its error in the state, of a stochastic one that of
its error in the distribution (weak). ``history`` says how many steps need past outputs before the
solver has its full order; ``refined`` are options for observing it, where the usual ones hold back
something that does not shrink with the steps; ``finer`` multiplies the numbers of steps at which
it is observed, where the asymptotic regime begins later.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import grids, process, solvers


def moments(s: float) -> float:
    """E|eps_hat|^2/d for N(0, I) data; a model's own are measured from it."""
    return s * s / (1.0 + s * s)


class Row(NamedTuple):
    """A solver to be measured."""

    solver: Callable[..., Any]
    options: dict[str, Any]
    order: int
    history: int = 0
    grid: str = "karras"
    stochastic: bool = False
    finer: int = 1
    refined: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The solver and its options, as they would be written."""
        shown = [f"{k}={getattr(v, '__name__', v)}" for k, v in self.options.items()]
        return " ".join([self.solver.__name__, *shown])


def karras(steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.karras(steps, low, high, zero=zero)


def log_snr(steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.log_snr(steps, low, high, zero=zero)


def quadratic_time(steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.vp_time(steps, low, high, rho=2, zero=zero)


GRIDS: dict[str, Callable[[int, float, float, bool], np.ndarray]] = {
    "karras": karras,
    "log SNR": log_snr,
    "VP time": quadratic_time,
}

DETERMINISTIC = [
    Row(solvers.euler, {}, 1),
    Row(solvers.heun, {}, 2),
    Row(solvers.dpm2, {}, 2),
    *[Row(solvers.lms, {"order": k}, k, k - 1) for k in (2, 3, 4)],
    *[Row(solvers.ipndm, {"order": k}, 2, k - 1) for k in (2, 3, 4)],
    Row(solvers.ipndm_v, {"order": 3, "reference": True}, 3, 2, finer=4),
    *[Row(solvers.deis, {"order": k}, k, k - 1, "VP time", finer=4) for k in (2, 3, 4)],
    *[
        Row(solvers.dpmpp, {"order": k, "prediction": p}, k, k - 1, "log SNR")
        for p in ("data", "noise")
        for k in (2, 3)
    ],
    Row(solvers.dpmpp, {"order": 3, "reference": True}, 2, 2, "log SNR"),
    *[Row(solvers.unipc, {"order": k}, k + 1, k, "log SNR") for k in (1, 2, 3)],
    Row(solvers.unipc, {"order": 3, "variant": "vary"}, 4, 3, "log SNR"),
    Row(solvers.unipc, {"order": 3, "corrector": False}, 3, 3, "log SNR"),
    *[
        Row(solvers.dpm_solver, {"order": k, "prediction": p}, k, grid="log SNR")
        for p in ("noise", "data")
        for k in (2, 3)
    ],
    Row(solvers.pndm, {}, 2, 3),
    Row(solvers.pndm, {"warm_up": "heun"}, 2, 3),
    Row(solvers.flow_heun, {}, 2),
    Row(solvers.flow_midpoint, {}, 3),  # on Gaussians; 2 elsewhere
    *[Row(solvers.flow_lms, {"order": k}, k, k - 1) for k in (2, 3)],
    Row(solvers.probability_flow, {"process": process.VP()}, 2),
    Row(solvers.genie, {}, 2),
    Row(solvers.edict, {}, 1),
    Row(solvers.bdia, {}, 2),
]
STOCHASTIC = [
    Row(solvers.ddim, {"eta": 1.0}, 1, stochastic=True),
    Row(solvers.ddim, {"eta": 0.5}, 1, stochastic=True),
    Row(solvers.ddpm, {"variance": "large"}, 1, stochastic=True),
    Row(solvers.dpm2_ancestral, {}, 2, stochastic=True),
    Row(solvers.dpmpp_2s_ancestral, {}, 2, stochastic=True),
    Row(solvers.sde_dpmpp, {"order": 1}, 1, grid="log SNR", stochastic=True),
    Row(solvers.sde_dpmpp, {"order": 2}, 2, grid="log SNR", stochastic=True, finer=2),
    Row(solvers.sde_dpmpp, {"order": 3}, 2, grid="log SNR", stochastic=True, finer=2),
    Row(solvers.sde_dpmpp_2s, {}, 1, grid="log SNR", stochastic=True),
    *[
        Row(solvers.sde_dpmpp, {"order": k, "prediction": "noise"}, k, 0, "log SNR", True, 2)
        for k in (1, 2)
    ],
    Row(solvers.sa_solver, {}, 2, grid="log SNR", stochastic=True, finer=2),
    Row(solvers.sa_solver, {"low": 0.0, "high": 100.0}, 2, 0, "log SNR", True, 2),
    Row(solvers.er_sde, {"order": 1}, 1, stochastic=True),
    Row(solvers.er_sde, {"order": 2}, 2, stochastic=True),
    Row(solvers.er_sde, {"order": 3}, 2, stochastic=True, finer=2),
    Row(solvers.analytic_dpm, {"moments": moments}, 1, stochastic=True, finer=2),
    Row(solvers.churn, {"inflate": 1.0}, 2, stochastic=True, finer=4),
    Row(solvers.restart, {}, 2, stochastic=True, refined={"intervals": [(0.14, 0.3, 2, 32)]}),
    Row(solvers.predictor_corrector, {}, 1, stochastic=True, finer=4, refined={"snr": 0.01}),
]
ROWS = DETERMINISTIC + STOCHASTIC
