"""Options of solvers that evaluate inside of a step: bespoke solvers, AMED and EPD."""

from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import solvers
from jaxdiff.ranges import PositiveBelow1
from jaxdiff.recipes.tuning.task import (
    Choice,
    Descent,
    Task,
    Tuner,
    adam,
    descent,
    order_of,
    start_of,
)
from jaxdiff.tuning.baselines import LOWS, baseline_grids, baselines
from jaxdiff.tuning.learned.amed_network import inside
from jaxdiff.tuning.learned.bespoke import of_bespoke, plain_bespoke, with_intermediate_levels
from jaxdiff.tuning.learned.family import Link, of_options
from jaxdiff.typing import Array

NO_WEIGHTS = ("weight_rate",)  # of methods that have none
BESPOKE_ENDS = (0.2, 0.4, 1.0)  # levels over sigma_data before a last step of two evaluations
EPD: Choice = (solvers.epd, {"ratios": (1 / 3, 2 / 3)})


def bespoke_solver(task: Task, *, order: Literal[1, 2] = 2, **options: Any) -> Descent:
    """Bespoke scale-time solvers (arXiv 2310.19075), for the end point, which does better than the
    paper's bound of it by local errors (:func:`jaxdiff.tuning.bespoke_tuning`).

    order: 2 is the midpoint method, of two evaluations in a step and of one in the last step if
    their number is odd; 1 is Euler's.
    """
    levels = list(_bespoke_grids(task, order))
    tables = [plain_bespoke(own, order, sigma_data=task.sigma_data) for own in levels]
    best = order_of(task, tables)[0]
    family = of_bespoke(levels[best], order, sigma_data=task.sigma_data)
    return descent(task, family, tables[best], optimiser=adam(task, **options))


def _bespoke_grids(task: Task, order: int) -> Iterator[np.ndarray]:
    """Baseline grids; at order 2 also those that end from a higher level, from which a step of two
    evaluations is worth both, and the paper's, uniform in the flow's time.
    """
    num_steps, d = -(-task.nfe // order), task.sigma_data
    ends = [d * share / task.low for share in BESPOKE_ENDS if task.low < d * share < task.high]
    lows = LOWS if order == 1 else (*LOWS, *ends)
    found = [levels for _, levels in baseline_grids(num_steps, task.low, task.high, lows)]
    if order == 1:
        yield from found
        return
    times = task.high / (d + task.high) * (1 - np.arange(num_steps + 1) / num_steps)
    uniform = np.concatenate([[task.high], d * times[1:] / (1 - times[1:])])
    for levels in [*found, uniform]:
        yield with_intermediate_levels(levels, sigma_data=d, last=task.nfe % 2 == 0)


def amed(
    task: Task,
    *,
    direction: PositiveBelow1 = 0.05,
    time: PositiveBelow1 = 0.2,
    move: bool = True,
    **options: Any,
) -> Descent:
    """AMED (arXiv 2312.00094) without its predictor: intermediate times, directions and
    conditioning levels as numbers of each step, and moving levels.

    direction: range of the factors of directions, five times the paper's. time: range of the
    factors of the conditioning levels. move: let levels move.
    """
    base = start_of(task, [(solvers.amed, {})])
    num_steps = len(base.levels) - 1
    links = {
        "ratios": Link(np.zeros(num_steps), lambda raw: list(inside(jax.nn.sigmoid(raw)))),
        "direction": _factors((num_steps,), direction),
        "time": _factors((num_steps,), time),
    }
    family = of_options(solvers.amed, base.levels, links, move=move, first=base.analytic)
    return descent(task, family, base.table(), optimiser=adam(task, **options))


def epd(
    task: Task,
    *,
    direction: PositiveBelow1 = 0.05,
    time: PositiveBelow1 = 0.05,
    move: bool = True,
    **options: Any,
) -> Descent:
    """EPD (arXiv 2507.14797): two evaluations at once in every step, their places and weights, and
    moving levels.

    direction: range of the factors of directions. time: range of the factors of the conditioning
        levels.
    move: let levels move.

    Deviations: the factors are 1 + C tanh(raw/(2C)), of slope 1/2 at the start whatever their range
    C; in the published code (BeierZhu/EPD) they are 1 + C tanh(raw/4). Numbers start as the plain
    solver's; there they are random. The end point is fitted, through all steps; there each
    step is, to the teacher's state, the last by Inception features. Levels move; there they are
    fixed (``move=False``). The script that trained the paper's solvers is no longer published.
    """
    ratios, points = EPD[1]["ratios"], 2
    base = start_of(task, [EPD])
    rows, rows_of = len(base.levels) - 1, lambda raw: [list(row) for row in raw]
    logits = np.log(np.array(ratios) / (1 - np.array(ratios)))
    links = {
        "ratios": Link(
            np.tile(logits, (rows, 1)), lambda raw: rows_of(inside(jax.nn.sigmoid(raw)))
        ),
        "weights": Link(np.zeros((rows, points)), lambda raw: rows_of(jax.nn.softmax(raw, axis=1))),
        "directions": _factors((rows, points), direction),
        "times": _factors((rows, points), time),
    }
    family = of_options(solvers.epd, base.levels, links, move=move, first=base.analytic)
    return descent(task, family, base.table(), optimiser=adam(task, **options))


def _factors(shape: tuple[int, ...], scale: float) -> Link:
    """Factors within 1 - scale and 1 + scale, 1 to begin with."""

    def option(raw: Array) -> list[Any]:
        values = 1.0 + scale * jnp.tanh(raw / (2 * scale))
        return list(values) if len(shape) == 1 else [list(row) for row in values]

    return Link(np.zeros(shape), option)


def _check_epd(task: Task) -> None:
    """Raise ValueError for numbers of evaluations that EPD cannot have."""
    baselines(task.nfe, choice=[EPD])


TUNERS: dict[str, Tuner] = {
    "bespoke": Tuner(bespoke_solver, (adam,), NO_WEIGHTS, own_solver=True),
    "amed": Tuner(amed, (adam,), NO_WEIGHTS, own_solver=True, fewest=2),
    "epd": Tuner(epd, (adam,), NO_WEIGHTS, own_solver=True, fewest=2, check=_check_epd),
}
