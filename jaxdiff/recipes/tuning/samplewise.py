"""Tuners whose steps depend on each sample, so that no table holds them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.arrays import take
from jaxdiff.ranges import Below1, Count, Natural, Positive
from jaxdiff.recipes.tuning.task import (
    Descent,
    Task,
    Tuner,
    numbered,
    pairs_per_update,
    ranked,
    start_of,
)
from jaxdiff.sampling.pairs import pair_batches
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Label
from jaxdiff.sampling.trace import table
from jaxdiff.training.tune import held_out
from jaxdiff.tuning.baselines import baselines
from jaxdiff.tuning.learned.amed import Predicted, Solve, amed_predictor
from jaxdiff.tuning.learned.amed_network import Predictor, bottleneck_size
from jaxdiff.tuning.learned.pas_search import pas_search
from jaxdiff.tuning.learned.path import follow
from jaxdiff.tuning.learned.steps import STEPS, Learned

AT_ONCE = 256  # trajectories


def teacher_states(task: Task, levels: np.ndarray, fine: int) -> np.ndarray:
    """Return the teacher's states (pairs, len(levels), *shape) at the levels, from the training
    starts: UniPC's on a grid of ``fine`` steps.
    """
    solver = table(solvers.unipc, grids.karras(fine, task.low, task.high), order=3)

    @jax.jit
    def states(start: Any, cond: Any) -> Any:
        path = follow(task.denoiser, solver, start, cond)
        at = [path.at(jnp.asarray(s, start.dtype)) if s else path.end for s in levels]
        return jnp.stack(at, axis=1)

    rows = (task.pairs["start"], task.pairs.get("label"))
    blocks = range(0, len(rows[0]), AT_ONCE)
    parts = [states(*take(rows, slice(i, i + AT_ONCE))) for i in blocks]
    return np.concatenate([np.asarray(part) for part in parts])


def pas_corrections(
    task: Task, *, order: Literal[1, 2, 3, 4] | None = None, fine: Count = 60, **options: Any
) -> list[Learned]:
    """PAS (arXiv 2411.06503): the directions of a solver's steps, corrected in the basis of the
    trajectory so far, on the best of the baseline grids.

    order: of the solver, 1 Euler's, 2 to 4 iPNDM; the best of them by default. fine: steps of the
    teacher, UniPC.
    """
    orders = (1, 2, 3, 4) if order is None else (order,)
    euler, ipndm = (solvers.euler, {}), [(solvers.ipndm, {"order": k}) for k in orders if k > 1]
    choice = [*([euler] if 1 in orders else []), *ipndm]
    known = baselines(task.nfe, low=task.low, high=task.high, choice=choice, first=[False])
    base = ranked(task, known)[0]
    targets = jnp.asarray(np.moveaxis(teacher_states(task, base.levels, fine), 0, 1))
    start, cond = jnp.asarray(task.pairs["start"]), task.pairs.get("label")
    number = base.options.get("order", 1)
    found = pas_search(
        task.denoiser, base.levels, start, targets, cond, order=number, **options
    )  # fmt: skip
    return [Learned(found, Label("pas", {"order": number, "grid": base.grid}))]


def amed_predictions(
    task: Task,
    *,
    step: Literal["amed", "amed_dpm2", "amed_ipndm", "amed_dpmpp"] = "amed",
    bottleneck: bool = True,
    index: Natural | None = None,
    direction: Below1 = 0.01,
    time: Below1 = 0.0,
    fine: Count = 60,
    predictor_rate: Positive = 0.25,
) -> Descent:
    """AMED (arXiv 2312.00094) with its predictor: intermediate times, directions and conditioning
    levels for every sample, on the best of the baseline grids of its solver.

    step: of AMED-Solver or of a plug-in into another. bottleneck: whether the predictor reads the
    network's lowest map, or the levels alone. index: which of the network's features is that; the
    middle one by default. direction: range of the factors of directions. time: range of the factors
    of the conditioning levels; 0 for none. fine: steps of the teacher, UniPC. predictor_rate: rate
    of Adam, in units of the task's rate.
    """
    base = start_of(task, [(solvers.amed, {})])
    shape, cond = task.pairs["start"].shape[1:], task.pairs.get("label")
    inputs = None
    if bottleneck:
        one = None if cond is None else take(cond, slice(1))
        inputs = bottleneck_size(task.denoiser, shape, one, index)
    predictor = Predictor(inputs, direction, time, index)
    optimiser = optax.adam(
        optax.cosine_decay_schedule(predictor_rate * task.rate, task.num_updates)
    )
    method = amed_predictor(
        task.denoiser, base.levels, predictor, step=STEPS[step], first=base.analytic,
        optimiser=optimiser,
    )  # fmt: skip
    solve = Solve(tuple(map(float, base.levels)), predictor, STEPS[step], base.analytic)
    label = Label("amed_predictor", {"step": step, "grid": base.grid})

    def learned(params: Any) -> Learned:
        return Learned(Predicted(params, solve), label)

    pairs = numbered(task.pairs) | {"path": teacher_states(task, base.levels, fine)}
    return Descent(
        method._replace(
            sampler=lambda state: Sampler(task.denoiser, learned(state.params["predictor"]))
        ),
        learned(method.init(jax.random.key(task.seed))["predictor"]),
        pair_batches(pairs, pairs_per_update(task), task.seed),
        held_out(task.denoiser, task.held, task.distance, **task.placing),
    )


TUNERS: dict[str, Tuner] = {
    "pas": Tuner(pas_corrections, (pas_search,), ("order",), searches=True, own_solver=True),
    "amed_predictor": Tuner(amed_predictions, own_solver=True, fewest=2, features="bottleneck"),
}
