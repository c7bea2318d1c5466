"""The baselines for a number of evaluations: what a tuned sampler starts from and must beat."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.brief import short
from jaxdiff.grids.uniform import has_vp_time
from jaxdiff.sampling.solver_options import solver_name
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Solver


class Baseline(NamedTuple):
    """A solver on a grid. ``first``: its first step is analytic and costs no evaluation."""

    __repr__ = short

    solver: Solver
    options: dict[str, Any]
    levels: np.ndarray
    grid: str
    first: bool = False

    def table(self) -> Table:
        """Return the sampler."""
        return table(self.solver, self.levels, first=self.analytic, **self.options)

    @property
    def analytic(self) -> Callable[..., Any] | None:
        """Return the first step, as :func:`jaxdiff.table` takes it."""
        return solvers.steps.unit_first if self.first else None

    @property
    def name(self) -> str:
        """Return its description for a report."""
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        first = ", analytic first step" if self.first else ""
        return f"{solver_name(self.solver)}{options} on {self.grid}{first}"


SOLVERS: tuple[tuple[Solver, dict[str, Any]], ...] = tuple(
    (known.solver, options) for known in solvers.SOLVERS for options in known.baselines
)
LOWS = (1.0, 10.0, 50.0)  # multiples of the lowest level, to end at before 0
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "Karras": grids.karras,
    "log SNR": grids.log_snr,
    "VP time": grids.vp_time,
    "VP time squared": lambda *a, **k: grids.vp_time(*a, rho=2.0, **k),
    "arctan": grids.arctan,
}


def baseline_grids(
    num_steps: int, low: float, high: float, lows: Sequence[float] = LOWS
) -> Iterator[tuple[str, np.ndarray]]:
    """Return every grid that ends in 0, with its name. The VP time has none where no process has
    both ends.
    """
    for name, grid in GRIDS.items():
        for factor in lows:
            if not name.startswith("VP time") or has_vp_time(low * factor, high):
                yield f"{name} from {low * factor:g}", grid(num_steps, low * factor, high)


def steps_for(solver: Solver, nfe: int, *, first: bool = False, **options: Any) -> int:
    """Steps of a grid ending in 0 on which a solver has exactly ``nfe`` evaluations.

    Raises ValueError, naming what it could have, if there is none.
    """
    name, costs = solver_name(solver), []
    for num_steps in range(1, nfe + 2):
        made = Baseline(solver, options, grids.log_snr(num_steps), "", first)
        costs.append(made.table().nfe)
        if costs[-1] >= nfe:
            break
    if costs[-1] != nfe or nfe < 1:
        possible = ", ".join(str(n) for n in sorted(set(costs)) if n > 0)
        raise ValueError(f"{name} cannot have {nfe} evaluations; near it are {possible}")
    return len(costs)


def baselines(
    nfe: int,
    *,
    low: float = 0.002,
    high: float = 80.0,
    lows: Sequence[float] = LOWS,
    choice: Sequence[tuple[Solver, dict[str, Any]]] = SOLVERS,
    first: Sequence[bool] = (False, True),
) -> list[Baseline]:
    """Return every solver on every grid ending in 0, for exactly ``nfe`` evaluations; those that
    cannot have as many are left out.

    Args:
        nfe: evaluations of every sampler.
        low, high: the lowest positive and the highest level.
        lows: multiples of ``low`` that the last positive level is tried at. Few evaluations are
            badly spent at the lowest levels.
        choice: solvers with their options.
        first: without an analytic first step, with one, or both.

    Returns:
        Solvers on grids, whose ``table()`` is the sampler.
    """
    found, reasons = [], []
    for solver, options in choice:
        for early in first:
            try:
                num_steps = steps_for(solver, nfe, first=early, **options)
            except ValueError as error:
                reasons.append(str(error) + (", its first step analytic" if early else ""))
                continue
            for label, levels in baseline_grids(
                num_steps, low, high, lows if num_steps > 1 else lows[:1]
            ):
                found.append(Baseline(solver, dict(options), levels, label, early))
    if not found:
        raise ValueError("; ".join(reasons[-2:]) or f"no solver is given for {nfe} evaluations")
    return found
