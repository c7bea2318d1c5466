"""Every solver with its default options, the order it is known to have, and its default grid.

From the list :data:`jaxdiff.solvers.SOLVERS`.

The order of a deterministic solver is that of its error in the state, of a stochastic one that of
its error in the distribution (weak). ``history`` says how many steps need past outputs before the
solver has its full order; ``refined`` are options for observing it, where the default ones hold
back something that does not shrink with the steps; ``finer`` multiplies the numbers of steps at
which it is observed, where the asymptotic regime begins later.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import grids, solvers


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
        """Return the solver and its options, as they would be written."""
        shown = [f"{k}={getattr(v, '__name__', v)}" for k, v in self.options.items()]
        return " ".join([self.solver.__name__, *shown])


def karras(num_steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.karras(num_steps, low, high, zero=zero)


def log_snr(num_steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.log_snr(num_steps, low, high, zero=zero)


def quadratic_time(num_steps: int, low: float, high: float, zero: bool) -> np.ndarray:
    return grids.vp_time(num_steps, low, high, rho=2, zero=zero)


GRIDS: dict[str, Callable[[int, float, float, bool], np.ndarray]] = {
    "karras": karras,
    "log SNR": log_snr,
    "VP time": quadratic_time,
}

ROWS = [
    Row(e.solver, m.options, m.order, m.history, m.grid, e.stochastic, m.finer, m.refined)
    for e in sorted(solvers.SOLVERS, key=lambda e: e.stochastic)
    for m in e.measured
]
