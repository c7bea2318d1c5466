"""The usual samplers for a number of evaluations: what a tuned one starts from and must beat."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.grids.lists import from_list
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import solver_name, table
from jaxdiff.typing import Solver


class Recipe(NamedTuple):
    """A solver on a grid. ``first``: its first step is analytic and costs no evaluation."""

    solver: Solver
    options: dict[str, Any]
    levels: np.ndarray
    grid: str
    first: bool = False

    def table(self) -> Table:
        """The sampler."""
        return table(self.solver, self.levels, first=self.analytic, **self.options)

    @property
    def analytic(self) -> Callable[..., Any] | None:
        """The first step, as :func:`jaxdiff.table` takes it."""
        return solvers.unit_first if self.first else None

    @property
    def name(self) -> str:
        """As it would be told."""
        options = "".join(f" {k}={v}" for k, v in self.options.items())
        first = ", analytic first step" if self.first else ""
        return f"{solver_name(self.solver)}{options} on {self.grid}{first}"


SOLVERS: tuple[tuple[Solver, dict[str, Any]], ...] = (
    (solvers.euler, {}),
    (solvers.ipndm, {"order": 2}),
    (solvers.ipndm, {"order": 3}),
    (solvers.ipndm, {"order": 4}),
    (solvers.dpmpp, {"order": 2}),
    (solvers.dpmpp, {"order": 3}),
    (solvers.unipc, {"order": 2}),
    (solvers.unipc, {"order": 3}),
    (solvers.deis, {"order": 3}),
    (solvers.heun, {}),
    (solvers.dpm2, {}),
)
LOWS = (1.0, 10.0, 50.0)  # multiples of the lowest level, to end at before 0
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "Karras": grids.karras,
    "log SNR": grids.log_snr,
    "VP time": grids.vp_time,
    "VP time squared": lambda *a, **k: grids.vp_time(*a, rho=2.0, **k),
    "arctan": grids.arctan,
}


def usual_grids(
    steps: int, low: float, high: float, lows: Sequence[float] = LOWS
) -> Iterator[tuple[str, np.ndarray]]:
    """Every usual grid that ends in 0, with its name. The VP time has none where no process has
    both ends.
    """
    for name, grid in GRIDS.items():
        for factor in lows:
            levels = grid(steps, low * factor, high)
            if (np.diff(levels) < 0).all():
                yield f"{name} from {low * factor:g}", from_list(levels)


def steps_for(solver: Solver, nfe: int, *, first: bool = False, **options: Any) -> int:
    """Steps of a grid ending in 0 on which a solver has exactly ``nfe`` evaluations.

    Raises ValueError, naming what it could have, if there is none.
    """
    name, costs = solver_name(solver), []
    for steps in range(1, nfe + 2):
        made = Recipe(solver, options, grids.log_snr(steps), "", first)
        costs.append(made.table().nfe)
        if costs[-1] >= nfe:
            break
    if costs[-1] != nfe or nfe < 1:
        possible = ", ".join(str(n) for n in sorted(set(costs)) if n > 0)
        raise ValueError(f"{name} cannot have {nfe} evaluations; near it are {possible}")
    return len(costs)


def usual(
    nfe: int,
    *,
    low: float = 0.002,
    high: float = 80.0,
    lows: Sequence[float] = LOWS,
    choice: Sequence[tuple[Solver, dict[str, Any]]] = SOLVERS,
    first: Sequence[bool] = (False, True),
) -> list[Recipe]:
    """Every usual solver on every usual grid ending in 0, for exactly ``nfe`` evaluations; those
    that cannot have as many are left out.

    lows: multiples of ``low`` that the last positive level is tried at. Few evaluations are badly
    spent at the lowest levels. first: without an analytic first step, with one, or both.
    Raises ValueError if no solver can have so many evaluations, saying what the last one could.
    """
    found, reasons = [], []
    for solver, options in choice:
        for early in first:
            try:
                steps = steps_for(solver, nfe, first=early, **options)
            except ValueError as error:
                reasons.append(str(error) + (", its first step analytic" if early else ""))
                continue
            for label, levels in usual_grids(steps, low, high, lows if steps > 1 else lows[:1]):
                found.append(Recipe(solver, dict(options), levels, label, early))
    if not found:
        raise ValueError("; ".join(reasons[-2:]) or f"no solver is given for {nfe} evaluations")
    return found
