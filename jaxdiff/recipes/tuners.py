"""Every method of tuning a sampler by name, with choices for minutes.

A tuner is a function of a :class:`Task`. A search returns tables, of which the one that does best
on the training pairs is taken; a descent returns a :class:`Descent`, which the training loop runs.
Used by ``jaxdiff tune`` and ``experiments.tuning``; from Python, use :mod:`jaxdiff.tuning`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.distance import Distance, squared
from jaxdiff.grids.lists import from_list
from jaxdiff.method import Method
from jaxdiff.sampling.pairs import pair_batches
from jaxdiff.sampling.sample import sample, start_noise
from jaxdiff.sampling.table import Table, pad
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.bespoke import bespoke
from jaxdiff.training.tune import Data, Judge, held_out
from jaxdiff.tuning.align import align_costs
from jaxdiff.tuning.amed import inside
from jaxdiff.tuning.bespoke import of_bespoke, with_middles
from jaxdiff.tuning.dynamic import best_grids
from jaxdiff.tuning.elbo import elbo_costs
from jaxdiff.tuning.family import Family, Link, of_grid, of_options, of_weights
from jaxdiff.tuning.gits import jump_costs
from jaxdiff.tuning.handmade import LOWS, SOLVERS, Recipe, steps_for, usual, usual_grids
from jaxdiff.tuning.method import Ball, Turns, tuning
from jaxdiff.tuning.objective import end_point, kernel_distance, mmd2
from jaxdiff.tuning.optimised_steps import optimised_steps
from jaxdiff.tuning.path import follow
from jaxdiff.typing import Array, Denoiser, Solver

Choice = tuple[Solver, dict[str, Any]]  # a solver with its options
ONE_EACH = [(s, o) for s, o in SOLVERS if s not in (solvers.heun, solvers.dpm2)]
DISCOUNTS = (0.9, 1.0, 1.05, 1.1, 1.15, 1.2)
EPD: Choice = (solvers.epd, {"ratios": (1 / 3, 2 / 3)})
OWN = ("bespoke", "amed", "epd", "ggdm")  # methods with a solver of their own
DISTANCE = "root of the mean distance to accurate samples"
FEWEST = 16  # pairs, of training and held out
SCREENED, FINALISTS = 64, 12  # pairs that all usual samplers are compared on; how many on all pairs


def flat(x: Array) -> Array:
    """Samples as features: their numbers."""
    return x.reshape(x.shape[0], -1)


class Task(NamedTuple):
    """A sampler that is wanted.

    denoiser: the model. nfe: evaluations. pairs, held: stored pairs ("start", "image", perhaps
    "label") to tune on and to choose by. data: (n, *shape) clean samples in random order, with
    their classes ``labels`` if there are any, for what needs them; the last quarter is what kernel
    distances are judged by. low, high: levels. updates: of a descent. rate: learning rate of levels
    and shares, four times that of weights. batch: pairs per update. distance: to tune by. features:
    what a kernel distance compares. options: of :func:`jaxdiff.sample` in the objective. solver: to
    start from, with its options; the best by default. nearest: a tuned table of another number of
    evaluations, whose levels may be the start. usual: what :func:`handmade` gives, if it is known.
    placing: ``parallel`` and ``devices`` of what is judged.
    """

    denoiser: Denoiser
    nfe: int
    pairs: Mapping[str, np.ndarray]
    held: Mapping[str, np.ndarray]
    data: np.ndarray
    labels: np.ndarray | None = None
    low: float = 0.002
    high: float = 80.0
    updates: int = 1500
    rate: float = 0.02
    batch: int = 256
    seed: int = 0
    sigma_data: float = 0.5
    distance: Distance = squared
    features: Callable[[Array], Array] = flat
    options: Mapping[str, Any] = {}
    solver: Choice | None = None
    nearest: Table | None = None
    usual: Sequence[Recipe] | None = None
    placing: Mapping[str, Any] = {}


class Descent(NamedTuple):
    """A descent: its method, where it starts, its batches, and what it is judged by, in words."""

    method: Method
    start: Table
    data: Data
    judge: Judge
    score: str = DISTANCE


Tuner = Callable[[Task], "Sequence[Table] | Descent"]


def check(task: Task, method: str) -> Task:
    """The task, if the method can do it. ValueError saying why not, before anything is computed."""
    if task.nfe < 1:
        raise ValueError(f"a sampler has at least one evaluation, not {task.nfe}")
    for name in ("pairs", "held"):
        if len(getattr(task, name)["start"]) < FEWEST:
            count = len(getattr(task, name)["start"])
            raise ValueError(f"tuning needs at least {FEWEST} {name} of samples; there are {count}")
    if task.updates < 1 or task.batch < 2 or not task.rate > 0:
        raise ValueError("updates must be at least 1, batch at least 2 and rate positive")
    if task.solver is not None:
        _check_solver(method, *task.solver)
    if method == "epd":
        usual(task.nfe, choice=[EPD])
    if method in ("ggdm", "epd", "amed") and task.nfe < 2:
        raise ValueError(f"{method} has nothing to tune in one evaluation; ask for two or more")
    return task


def _check_solver(method: str, solver: Solver, options: dict[str, Any]) -> None:
    if method in OWN:
        raise ValueError(f"{method} has a solver of its own; leave out the solver")
    made = table(solver, grids.log_snr(3), **options)
    if made.stochastic or made.nfe != 3:
        known = ", ".join(dict.fromkeys(s.__name__ for s, _ in ONE_EACH))
        raise ValueError(
            f"tuning starts from a deterministic solver of one evaluation per step ({known}, ...), "
            f"not from {made.name}"
        )


def handmade(task: Task) -> list[Recipe]:
    """The usual samplers of the task's evaluations, best on the training pairs first."""
    choice = SOLVERS if task.solver is None else [task.solver]
    return ranked(task, usual(task.nfe, low=task.low, high=task.high, choice=choice))


def ranked(task: Task, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes in the order of their error on the training pairs; those that diverge last."""
    return [recipes[i] for i in order_of(task, [recipe.table() for recipe in recipes])]


def order_of(task: Task, tables: Sequence[Table]) -> list[int]:
    """The tables' numbers in the order of their error: all are compared on a few training pairs,
    the best of them on all. ValueError if none gives finite samples.
    """
    few = {name: rows[:SCREENED] for name, rows in task.pairs.items()}
    padded = pad(tables)
    order = _ordered(task, few, padded, range(len(tables)))
    return [*_ordered(task, task.pairs, padded, order[:FINALISTS]), *order[FINALISTS:]]


def _ordered(
    task: Task, pairs: Mapping[str, np.ndarray], tables: Sequence[Table], which: Sequence[int]
) -> list[int]:
    judge = held_out(task.denoiser, pairs, task.distance, **task.placing)
    scores = {i: judge(tables[i]) for i in which}
    if not any(map(math.isfinite, scores.values())):
        raise ValueError("no sampler gives finite samples: does the denoiser give NaN?")
    return sorted(which, key=lambda i: scores[i] if math.isfinite(scores[i]) else math.inf)


def start_of(task: Task, choice: Sequence[Choice] | None = None) -> Recipe:
    """What a descent starts from: the best usual sampler, or the same solvers on the levels of the
    nearest tuned table.

    choice: of solvers; by default the task's own, or all of one evaluation per step.
    """
    if choice is None:
        choice = ONE_EACH if task.solver is None else [task.solver]
        known = task.usual or handmade(task)
        recipes = [next(r for r in known if (r.solver, r.options) in choice)]
    else:
        recipes = usual(task.nfe, low=task.low, high=task.high, choice=choice)
    if task.nearest is not None:
        recipes = [*recipes, *_warm(task, task.nearest, choice)]
    return recipes[0] if len(recipes) == 1 else ranked(task, recipes)[0]


def _warm(task: Task, nearest: Table, choice: Sequence[Choice]) -> Iterator[Recipe]:
    known = np.asarray(nearest.levels, np.float64)
    for solver, options in choice:
        try:
            steps = steps_for(solver, task.nfe, **options)
        except ValueError:  # so many evaluations it has only with an analytic first step
            continue
        levels = grids.resample(known, steps)
        yield Recipe(solver, options, levels, "the nearest tuned table's levels")


def adam(task: Task) -> optax.GradientTransformation:
    """Adam, its rates going to zero by a cosine; weights learn at a quarter of the rate."""

    def own(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, task.updates), b2=0.99)

    weights = ("start", "denoised", "noises")
    kind = lambda numbers: {k: "weights" if k in weights else "others" for k in numbers}  # noqa: E731
    return optax.multi_transform({"weights": own(task.rate / 4), "others": own(task.rate)}, kind)


def numbered(pairs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pairs with their numbers, which a moving start is found by."""
    return {**pairs, "index": np.arange(len(pairs["start"]), dtype=np.int32)}


def descent(task: Task, family: Family, start: Table, **options: Any) -> Descent:
    """The descent on a family by the task's pairs and distance."""
    options = {"optimiser": adam(task)} | options
    method = tuning(
        task.denoiser, family, end_point(task.distance, **task.options),
        shape=task.pairs["start"].shape[1:], **options,
    )  # fmt: skip
    data = pair_batches(numbered(task.pairs), pairs_per_update(task), task.seed)
    judge = held_out(task.denoiser, task.held, task.distance, **task.placing)
    return Descent(method, start, data, judge)


# Schedules


def gits(task: Task) -> list[Table]:
    """GITS (arXiv 2405.11326): the teacher's 61 levels, every discount, every solver."""
    levels = grids.karras(60, task.low, task.high)
    starts, label = jnp.asarray(task.pairs["start"][:256]), task.pairs.get("label")
    cond = None if label is None else jnp.asarray(label[:256])
    path = follow(task.denoiser, table(solvers.ipndm, levels, order=3), starts, cond)
    costs = jump_costs(path, zero=True)
    budgets = [task.nfe, task.nfe + 1]  # the longer ones for an analytic first step
    found = [g for discount in DISCOUNTS for g in best_grids(costs, levels, budgets, discount)]
    return _on(task, found)


def ays(task: Task) -> list[Table]:
    """Align Your Steps (arXiv 2404.14507): the bound's best grid, every solver."""
    return _on(task, _searched(task, align_costs))


def elbo(task: Task) -> list[Table]:
    """The best evidence lower bound (arXiv 2106.03802), every solver."""
    return _on(task, _searched(task, elbo_costs))


def _searched(task: Task, costs: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Grids that end in 0: the best of one step less, from the lowest level or a higher one."""
    data, labels = jnp.asarray(task.data[:256]), task.labels
    cond = None if labels is None else jnp.asarray(labels[:256])
    found = []
    for factor in LOWS:
        levels = grids.log_snr(100, task.low * factor, task.high, zero=False)
        own = costs(task.denoiser, data, levels, jax.random.key(task.seed), cond)
        budgets = [n for n in (task.nfe - 1, task.nfe) if n > 0]
        found += [np.append(g, 0.0) for g in best_grids(own, levels, budgets)]
    return found if task.nfe > 1 else [np.array([task.high, 0.0]), *found]


def dmn(task: Task) -> list[Table]:
    """Optimised time steps (arXiv 2402.17376), no evaluation of the network, every solver."""
    options = {"order": 3, "variant": "vary", "corrector": False}
    starts = [
        grids.log_snr(steps, task.low * factor, task.high)
        for steps in (task.nfe, task.nfe + 1)
        for factor in LOWS
    ]
    moved = [optimised_steps(s, **options).grid if len(s) > 3 else s for s in starts]
    return _on(task, moved)


def _on(task: Task, found: Sequence[np.ndarray]) -> list[Table]:
    """Every solver on every grid, with an analytic first step where there is a step to spare."""
    choice = ONE_EACH if task.solver is None else [task.solver]
    recipes = [
        Recipe(solver, options, from_list(g), "", len(g) - 1 > task.nfe)
        for g in found
        for solver, options in choice
    ]
    return [made for made in (r.table() for r in recipes) if made.nfe == task.nfe]


# Coefficients


def ld3(task: Task) -> Descent:
    """LD3 (arXiv 2405.15506): levels, the levels told, starts within a ball; RMSprop."""
    base = start_of(task)
    family = of_grid(
        base.solver, base.levels, offsets=True, first=base.analytic, **base.options
    )  # fmt: skip
    return descent(task, family, base.table(), optimiser=rmsprop(task), ball=relaxed(task))


def rmsprop(task: Task) -> optax.GradientTransformation:
    """LD3's optimiser of levels, its rate going to zero by a cosine."""
    schedule = optax.cosine_decay_schedule(0.25 * task.rate, task.updates)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(schedule, momentum=0.9))


def relaxed(task: Task) -> Ball:
    """The ball of LD3's relaxed teacher, of its radius."""
    size = int(np.prod(task.pairs["start"].shape[1:]))
    return Ball(len(task.pairs["start"]), pairs_per_update(task), 0.001 * size / task.nfe**2)


def pairs_per_update(task: Task) -> int:
    """The batch, if there are as many pairs."""
    return min(task.batch, len(task.pairs["start"]))


def s4s(task: Task) -> Descent:
    """S4S (arXiv 2502.17423): weights of the last outputs on the best usual grid, the teacher
    relaxed.
    """
    base = start_of(task)
    family = of_weights(base.table(), **_window(base), sigma_data=task.sigma_data)
    return descent(task, family, base.table(), ball=relaxed(task))


def s4s_alt(task: Task) -> Descent:
    """S4S-Alt (arXiv 2502.17423): LD3's numbers and S4S's in turn, ten times each, the teacher
    relaxed. The levels begin: weights that were fitted to a bad grid lead away from a good one.
    """
    base = start_of(task)
    grid = of_grid(base.solver, base.levels, offsets=True, first=base.analytic, **base.options)
    family = of_weights(grid, **_window(base), sigma_data=task.sigma_data)
    turns = Turns((("levels", "offsets"), ("denoised",)), max(1, task.updates // 20))
    half = task._replace(updates=-(-task.updates // 2))
    each = {"levels": rmsprop(half), "denoised": adam(half)}
    return descent(task, family, base.table(), optimiser=each, turns=turns, ball=relaxed(task))


def _window(base: Recipe) -> dict[str, Any]:
    return {"window": base.options.get("order", 1), "keep_start": True}


def bns(task: Task) -> Descent:
    """Bespoke non-stationary solvers (arXiv 2403.01329): all weights and levels; for the task's
    distance, where the paper has the logarithm of the squared one.
    """
    base = start_of(task)
    grid = of_grid(base.solver, base.levels, first=base.analytic, **base.options)
    return descent(task, of_weights(grid, sigma_data=task.sigma_data), base.table())


def gs(task: Task) -> Descent:
    """Generalised solver (arXiv 2510.17699, its distillation part): all weights, levels and levels
    told, as corrections of a solver on the learned levels.
    """
    base = start_of(task)
    grid = of_grid(base.solver, base.levels, offsets=True, first=base.analytic, **base.options)
    return descent(task, of_weights(grid, sigma_data=task.sigma_data), base.table())


def bespoke_solver(task: Task) -> Descent:
    """Bespoke scale-time solvers (arXiv 2310.19075): of order 2 for an even number of evaluations,
    else of order 1; for the end point, which does better than the paper's bound of it by local
    errors (:func:`jaxdiff.tuning.bespoke_tuning`).
    """
    order = 1 if task.nfe % 2 else 2
    recipes = [
        Recipe(bespoke, {"order": order}, levels if order == 1 else with_middles(levels), name)
        for name, levels in usual_grids(task.nfe // order, task.low, task.high)
    ]
    base = ranked(task, recipes)[0]
    return descent(task, of_bespoke(base.levels, order), base.table())


def amed(task: Task) -> Descent:
    """AMED (arXiv 2312.00094) without its predictor: middles, directions and levels told as numbers
    of each step, and moving levels. Directions have five times the paper's range.
    """
    base = start_of(task, [(solvers.amed, {})])
    steps = len(base.levels) - 1
    links = {
        "middles": Link(np.zeros(steps), lambda raw: list(inside(jax.nn.sigmoid(raw)))),
        "direction": _factors((steps,), 0.05),
        "time": _factors((steps,), 0.2),
    }
    family = of_options(solvers.amed, base.levels, links, move=True, first=base.analytic)
    return descent(task, family, base.table())


def epd(task: Task) -> Descent:
    """EPD (arXiv 2507.14797): two evaluations at once in every step, their places and weights, and
    moving levels.
    """
    ratios, middles = EPD[1]["ratios"], 2
    base = start_of(task, [EPD])
    rows, rows_of = len(base.levels) - 1, lambda raw: [list(row) for row in raw]
    logits = np.log(np.array(ratios) / (1 - np.array(ratios)))
    links = {
        "ratios": Link(
            np.tile(logits, (rows, 1)), lambda raw: rows_of(inside(jax.nn.sigmoid(raw)))
        ),
        "weights": Link(
            np.zeros((rows, middles)), lambda raw: rows_of(jax.nn.softmax(raw, axis=1))
        ),
        "directions": _factors((rows, middles), 0.05),
        "times": _factors((rows, middles), 0.05),
    }
    family = of_options(solvers.epd, base.levels, links, move=True, first=base.analytic)
    return descent(task, family, base.table())


def _factors(shape: tuple[int, ...], scale: float) -> Link:
    """Factors within 1 - scale and 1 + scale, 1 to begin with."""

    def option(raw: Array) -> list[Any]:
        values = 1.0 + scale * jnp.tanh(raw / (2 * scale))
        return list(values) if len(shape) == 1 else [list(row) for row in values]

    return Link(np.zeros(shape), option)


def ggdm(task: Task) -> Descent:
    """GGDM by DDSS (arXiv 2202.05830): all weights of a stochastic sampler, those of its noises
    too, for the kernel distance of its samples to data.
    """
    recipes = [
        Recipe(solvers.ddim, {"eta": 0.5}, levels, name)
        for name, levels in usual_grids(task.nfe, task.low, task.high)
    ]
    base = min(recipes, key=lambda recipe: _or_inf(_kernel(task, task.pairs, recipe.table(), 1)))
    family = of_weights(
        of_grid(base.solver, base.levels, **base.options), noises=True, sigma_data=task.sigma_data
    )  # fmt: skip
    objective = kernel_distance(task.features, **{"remat": True, **task.options})
    method = tuning(task.denoiser, family, objective, optimiser=adam(task))
    shown, classes = _apart(task)[0]
    size, key = min(task.batch, len(shown)), jax.random.fold_in(jax.random.key(task.seed), 0x66D)
    shape = shown.shape[1:]

    def data(step: int) -> dict[str, np.ndarray]:
        index = np.arange(step * size, (step + 1) * size, dtype=np.int32)
        rows = np.random.default_rng([task.seed, step]).integers(0, len(shown), (2, size))
        start = task.high * start_noise(key, jnp.asarray(index), shape, shown.dtype)
        batch = {"start": np.asarray(start), "index": index, "reference": shown[rows[0]]}
        return batch | ({} if classes is None else {"label": classes[rows[1]]})

    return Descent(method, base.table(), data, kernel_judge(task), "squared MMD")


def kernel_judge(task: Task) -> Judge:
    """The kernel distance of samples from the held-out starts to the data that are set aside."""
    return lambda made: _kernel(task, task.held, made, 2)


def _kernel(task: Task, pairs: Mapping[str, np.ndarray], made: Table, number: int) -> float:
    """From the starts of pairs; to data shown in tuning (number 1) or set aside (2)."""
    start, label = jnp.asarray(pairs["start"]), pairs.get("label")
    key = jax.random.fold_in(jax.random.key(task.seed), number)
    noise: dict[str, Any] = {"key": key} if made.stochastic else {}
    real = jax.tree.map(lambda x: jnp.asarray(x, start.dtype), made)
    cond = None if label is None else jnp.asarray(label)
    samples = sample(task.denoiser, real, start, cond, **noise)
    reference = _apart(task)[number - 1][0][: 4 * len(start)]
    return float(mmd2(task.features(samples), task.features(jnp.asarray(reference))))


def _or_inf(score: float) -> float:
    return score if math.isfinite(score) else math.inf


def _apart(task: Task) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """The data that tuning may see and those that are set aside, with their classes."""
    cut = len(task.data) - len(task.data) // 4
    rows = (slice(cut), slice(cut, None))
    return [(task.data[r], None if task.labels is None else task.labels[r]) for r in rows]


TUNERS: dict[str, Tuner] = {
    "gits": gits,
    "ays": ays,
    "elbo": elbo,
    "dmn": dmn,
    "ld3": ld3,
    "s4s": s4s,
    "s4s_alt": s4s_alt,
    "bns": bns,
    "gs": gs,
    "bespoke": bespoke_solver,
    "amed": amed,
    "epd": epd,
    "ggdm": ggdm,
}
