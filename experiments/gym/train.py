"""Train one method on one problem and measure it."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from experiments.gym import cost
from experiments.gym.reference_metrics import NFES, ReferenceMetrics
from jaxdiff.app.problems import HIGH, LOW, SIGMA_DATA, Problem, data
from jaxdiff.distill.parts.stage import Before, Data, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.method import Method
from jaxdiff.networks import MLP, count_parameters, from_linen, graft, init
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.pairs import Spread
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training import fit, fit_stages
from jaxdiff.training.ema import ramped
from jaxdiff.training.fit_stages import split_updates
from jaxdiff.typing import Network, Params

BATCH, RATE = 128, 2e-3
# the aims: times nearer than Euler in 1 NFE, times the real-data score at the best NFE
NEARER, MOST = 5.0, 3.0


def module(log_variance: bool = False) -> MLP:
    """Return the gym's network."""
    return MLP(width=128, depth=3, embedding=64, label_scale=16.0, log_variance=log_variance)


class ByName:
    """A problem as a key of caches."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.key = (problem.name, problem.dimension, problem.modes.tobytes())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByName) and self.key == other.key


def score_method(problem: Problem, num_updates: int) -> Method:
    """Score matching of the gym's network, which gives every student its start."""
    student = Student(
        from_linen(module()), lambda key: init(module(), key, (problem.dimension,)),
        sigma_data=SIGMA_DATA, optimiser=optax.adam(optax.cosine_decay_schedule(RATE, num_updates)),
        ema={"average": ramped(0.998)},
    )  # fmt: skip
    return score_matching(student, std=1.6)


@functools.lru_cache(maxsize=4)
def _teacher_params(problem: ByName, seed: int, num_updates: int) -> tuple[Params, float]:
    began = time.process_time()
    method, batches = score_method(problem.problem, num_updates), data(problem.problem, BATCH, seed)
    state = fit(method, batches, num_updates=num_updates, key=seed, progress=sys.stderr.isatty())
    return jax.block_until_ready(state.ema["student"]["average"]), time.process_time() - began


def pretrained(problem: Problem, seed: int, num_updates: int) -> tuple[Params, float]:
    """Parameters of a denoiser trained by score matching, where every student starts, and the
    seconds of processor time it took.
    """
    return _teacher_params(ByName(problem), seed, num_updates)


@functools.lru_cache(maxsize=4)
def _reference(problem: ByName, seed: int) -> ReferenceMetrics:
    return ReferenceMetrics(problem.problem, seed)


def goal(problem: Problem, params: Params, num_updates: int, seed: int) -> Goal:
    """Return what recipes start from."""
    shape = (problem.dimension,)

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        larger = module(log_variance)
        fresh = init(larger, jax.random.key(seed), shape, labels=labels)
        return from_linen(larger), graft(params, fresh)

    return Goal(
        problem.model.denoiser, network, shape, num_updates, rate=RATE / 2, sigma_data=SIGMA_DATA,
        low=LOW, high=HIGH, seed=seed, ema={"average": ramped(0.998)},
    )  # fmt: skip


class Watch:
    """Record of stages while they train: methods, their data, seconds of making data."""

    def __init__(self) -> None:
        self.methods: list[Method] = []
        self.sources: list[Data] = []
        self.samplers: list[Callable[[int], Sampler]] = []  # of the stages before, the last first
        self.making = 0.0

    def stages(self, stages: Sequence[Stage], data: Data) -> list[Stage]:
        """Return the same stages, watched."""
        return [self._one(stage, data) for stage in stages]

    def _one(self, stage: Stage, data: Data) -> Stage:
        def method(before: Before | None) -> Method:
            if before is not None:
                self.samplers.insert(0, before.sampler)
            self.methods.append(stage.method(before))
            return self.methods[-1]

        def source(given: Data, before: Before | None, spread: Spread) -> Data:
            began = time.process_time()
            made = given if stage.data is None else stage.data(given, before, spread)
            self.making += time.process_time() - began
            self.sources.append(made)
            return made

        return stage._replace(method=method, data=source)

    def cost(self, counts: Sequence[int]) -> float:
        """Mean multiplications per update, of ``counts`` updates of each stage."""
        each = [cost.of_update(m, d(0)) for m, d in zip(self.methods, self.sources, strict=True)]
        return sum(n * c for n, c in zip(counts, each, strict=True)) / sum(counts)


_compiled = {"seconds": 0.0}


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    if event.endswith("backend_compile_duration"):
        _compiled["seconds"] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_note)


def updates_of(method: str, num_updates: int) -> int:
    """Return the updates that a method makes of ``num_updates``."""
    return max(1, round(num_updates * RECIPES[method].share))


def run(
    method: str,
    problem: Problem,
    *,
    seed: int,
    budget: int,
    start_updates: int,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a method; return its numbers at each NFE, divided by the real-data score and by
    Euler's.

    "updates" are those made, of ``budget`` the share that its recipe gets. "seconds" are those
    of processor time, on all cores, of the method, compilation and making pairs ("pair_seconds")
    within; "start_seconds" those of the pretrained network that all start from. "compile_seconds"
    pass on the clock.
    "cost" is that of an update relative to plain score matching (:mod:`experiments.gym.cost`).
    "earlier" are the NFEs that only students of earlier stages have (progressive distillation).
    """
    recipe, updates = RECIPES[method], updates_of(method, budget)
    params, start_seconds = pretrained(problem, seed, start_updates)
    reference, batches, watch = (
        _reference(ByName(problem), seed),
        data(problem, BATCH, seed + 1),
        Watch(),
    )
    began, compiled = time.process_time(), _compiled["seconds"]
    stages = recipe.stages(goal(problem, params, updates, seed))
    last, state = fit_stages(
        watch.stages(stages, batches), batches, num_updates=updates, key=seed, ema="average",
        progress=progress,
    )  # fmt: skip
    jax.block_until_ready(state.params)
    seconds, compiled = time.process_time() - began, _compiled["seconds"] - compiled
    samplers, older = few_steps(
        lambda num_steps: last.sampler(state, num_steps=num_steps, ema="average"), watch.samplers
    )
    plain = cost.of_update(score_method(problem, budget), batches(0))
    return {
        "method": method,
        "problem": problem.name,
        "dimension": problem.dimension,
        "seed": seed,
        "budget": budget,
        "start_updates": start_updates,
        "updates": updates,
        "samples": updates * BATCH,
        "parameters": count_parameters(state.params["student"]),
        "stages": len(stages),
        "earlier": older,
        "seconds": seconds,
        "compile_seconds": compiled,
        "pair_seconds": watch.making,
        "start_seconds": start_seconds,
        "cost": watch.cost(split_updates(stages, updates)) / plain,
        "follows_flow": recipe.follows_flow,
        "weakness": recipe.weakness,
        "real_data": reference.real_data,
        "real_data_std": reference.std,
        "euler": reference.euler,
        **scored(samplers, reference, recipe.follows_flow),
    }


def few_steps(
    sampler: Callable[[int], Sampler], earlier: Sequence[Callable[[int], Sampler]] = ()
) -> tuple[dict[int, Sampler], list[int]]:
    """Return the samplers that spend 1, 2 and 4 evaluations, without those that there are not, and
    which of these come from ``earlier`` stages: those that the last one's student does not have.

    Raises ValueError if there is none.
    """
    found, older, reason = {}, [], "it spends other numbers"
    for each in (sampler, *earlier):
        for steps in NFES:
            try:
                made = each(steps)
            except ValueError as error:
                reason = str(error)
                continue
            nfe = made.table.nfe
            if nfe in NFES and nfe not in found:
                found[nfe] = made
                older += [nfe] if each is not sampler else []
    if not found:
        raise ValueError(f"no sampler of {NFES} evaluations: {reason}")
    return dict(sorted(found.items())), sorted(older)


def scored(
    samplers: dict[int, Sampler], reference: ReferenceMetrics, follows_flow: bool
) -> dict[str, Any]:
    """Numbers by NFE and whether they reach the aims, which is None for a method without NFE 1."""
    rows = {
        nfe: ratios(reference.measure(s), reference, nfe, follows_flow)
        for nfe, s in samplers.items()
    }
    best = min(rows, key=lambda nfe: rows[nfe]["sliced/real_data"])
    return {
        "nfe": rows,
        "best": best,
        "nearer_than_euler": rows[1]["euler/sliced"] >= NEARER if 1 in rows else None,
        "near_real_data": rows[best]["sliced/real_data"] <= MOST,
    }


def ratios(
    own: dict[str, float], reference: ReferenceMetrics, nfe: int, follows_flow: bool
) -> dict[str, float]:
    """Return every number, its ratio to the real-data score, and Euler's ratio to it (the larger,
    the nearer).

    The real-data score of "to_flow", a distance in d dimensions, is sqrt(d) times that along a
    line. An unbiased squared MMD may be below its real-data score, even below 0: Euler's ratio is
    then to that score.
    """
    real_data = reference.real_data | {
        "to_flow": reference.real_data["sliced"] * reference.problem.dimension**0.5
    }
    found = {name: v for name, v in own.items() if name != "to_flow" or follows_flow}
    for name, value in list(found.items()):
        least = real_data[name] if name in reference.kernels else 1e-12
        found[f"{name}/real_data"] = value / real_data[name]
        found[f"euler/{name}"] = reference.euler[nfe][name] / max(value, least)
    return found
