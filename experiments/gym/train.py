"""Train one method on one problem and measure it."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from experiments.gym import cost
from experiments.gym.problems import HIGH, LOW, SIGMA_DATA, Problem, data
from experiments.gym.ruler import NFES, Ruler
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.distill.stages import Before, Data, Stage
from jaxdiff.method import Method
from jaxdiff.networks import MLP, count_parameters, from_linen, graft, init
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.pairs import Spread
from jaxdiff.sampling.sample import Sampler
from jaxdiff.training import fit, fit_stages
from jaxdiff.training.ema import constant
from jaxdiff.training.stages import split_steps
from jaxdiff.typing import Network, Params

BATCH, RATE = 128, 2e-3
NEARER, FLOORS = 5.0, 3.0  # the aims: times nearer than Euler in 1 NFE, times the floor at the best
# The share of the updates that a method gets whose updates are so dear that all of them would take
# more than a minute on two cores.
FEWER = {
    "sfd": 0.75, "sfd_v": 0.85, "trajectory_operator": 0.7, "trajectory_consistency": 0.75,
    "trajectory_consistency_adversarial": 0.4, "flow_map_eulerian": 0.8, "flow_map_semigroup": 0.8,
    "diff_instruct": 0.6, "diff_instruct_low_rank": 0.6, "dmd": 0.5, "dmd2": 0.4,
    "dmd2_two_steps": 0.4, "decoupled_dmd": 0.6, "f_distill": 0.4, "sid": 0.6, "sida": 0.4,
    "sim": 0.6, "moment_matching": 0.6, "add": 0.4, "ladd": 0.6, "ufogen": 0.5, "ddgan": 0.6,
    "truncated_diffusion": 0.4,
}  # fmt: skip


def module(log_variance: bool = False) -> MLP:
    """The gym's network."""
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


def score_method(problem: Problem, steps: int) -> Method:
    """Score matching of the gym's network, which gives every student its start."""
    return score_matching(
        from_linen(module()), lambda key: init(module(), key, (problem.dimension,)),
        sigma_data=SIGMA_DATA, std=1.6,
        optimiser=optax.adam(optax.cosine_decay_schedule(RATE, steps)),
        ema={"average": constant(0.998)},
    )  # fmt: skip


@functools.lru_cache(maxsize=4)
def _teacher_params(problem: ByName, seed: int, steps: int) -> tuple[Params, float]:
    began = time.perf_counter()
    method, batches = score_method(problem.problem, steps), data(problem.problem, BATCH, seed)
    state = fit(method, batches, steps=steps, key=seed, progress=sys.stderr.isatty())
    return jax.block_until_ready(state.ema["model"]["average"]), time.perf_counter() - began


def pretrained(problem: Problem, seed: int, steps: int) -> tuple[Params, float]:
    """Parameters of a denoiser trained by score matching, where every student starts, and the
    seconds it took.
    """
    return _teacher_params(ByName(problem), seed, steps)


@functools.lru_cache(maxsize=4)
def _ruler(problem: ByName, seed: int) -> Ruler:
    return Ruler(problem.problem, seed)


def goal(problem: Problem, params: Params, steps: int, seed: int) -> Goal:
    """What recipes start from."""
    shape = (problem.dimension,)

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        larger = module(log_variance)
        fresh = init(larger, jax.random.key(seed), shape, labels=labels)
        return from_linen(larger), graft(params, fresh)

    return Goal(
        problem.model.denoiser, network, shape, steps, rate=RATE / 2, sigma_data=SIGMA_DATA,
        low=LOW, high=HIGH, seed=seed, ema={"average": constant(0.998)},
    )  # fmt: skip


class Watch:
    """What is seen of stages while they train: methods, their data, seconds of making data."""

    def __init__(self) -> None:
        self.methods: list[Method] = []
        self.sources: list[Data] = []
        self.samplers: list[Callable[[int], Sampler]] = []  # of the stages before, the last first
        self.making = 0.0

    def stages(self, stages: Sequence[Stage], data: Data) -> list[Stage]:
        """The same stages, watched."""
        return [self._one(stage, data) for stage in stages]

    def _one(self, stage: Stage, data: Data) -> Stage:
        def method(before: Before | None) -> Method:
            if before is not None:
                self.samplers.insert(0, before.sampler)
            self.methods.append(stage.method(before))
            return self.methods[-1]

        def source(given: Data, before: Before | None, spread: Spread) -> Data:
            began = time.perf_counter()
            made = given if stage.data is None else stage.data(given, before, spread)
            self.making += time.perf_counter() - began
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


def updates_of(method: str, steps: int) -> int:
    """The updates that a method makes of ``steps``."""
    return max(1, round(steps * FEWER.get(method, 1.0)))


def run(
    method: str,
    problem: Problem,
    *,
    seed: int,
    steps: int,
    start_steps: int,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a method; return its numbers at each NFE, divided by the floor and by Euler's.

    "updates" are those made, of ``steps`` the share that :data:`FEWER` grants. "seconds" are those
    of the method, compilation ("compile_seconds") and making pairs ("pair_seconds") within;
    "start_seconds" those of the pretrained network that all start from.
    "cost" is that of an update relative to plain score matching (:mod:`experiments.gym.cost`).
    "earlier" are the NFEs that only students of earlier stages have (progressive distillation).
    """
    recipe, updates = RECIPES[method], updates_of(method, steps)
    params, start_seconds = pretrained(problem, seed, start_steps)
    ruler, batches, watch = _ruler(ByName(problem), seed), data(problem, BATCH, seed + 1), Watch()
    began, compiled = time.perf_counter(), _compiled["seconds"]
    stages = recipe.stages(goal(problem, params, updates, seed))
    last, state = fit_stages(
        watch.stages(stages, batches), batches, steps=updates, key=seed, ema="average",
        progress=progress,
    )  # fmt: skip
    jax.block_until_ready(state.params)
    seconds, compiled = time.perf_counter() - began, _compiled["seconds"] - compiled
    samplers, older = few_steps(
        lambda steps: last.sampler(state, steps=steps, ema="average"), watch.samplers
    )
    plain = cost.of_update(score_method(problem, steps), batches(0))
    return {
        "method": method, "problem": problem.name, "dimension": problem.dimension, "seed": seed,
        "steps": steps, "start_steps": start_steps, "updates": updates, "samples": updates * BATCH,
        "parameters": count_parameters(state.params["student"]), "stages": len(stages),
        "earlier": older,
        "seconds": seconds, "compile_seconds": compiled, "pair_seconds": watch.making,
        "start_seconds": start_seconds,
        "cost": watch.cost(split_steps(stages, updates)) / plain,
        "follows_flow": recipe.follows_flow, "weakness": recipe.weakness,
        "floor": ruler.floor, "floor_spread": ruler.spread, "euler": ruler.euler,
        **scored(samplers, ruler, recipe.follows_flow),
    }  # fmt: skip


def few_steps(
    sampler: Callable[[int], Sampler], earlier: Sequence[Callable[[int], Sampler]] = ()
) -> tuple[dict[int, Sampler], list[int]]:
    """The samplers that spend 1, 2 and 4 evaluations, without those that there are not, and which
    of these come from ``earlier`` stages: those that the last one's student does not have.

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


def scored(samplers: dict[int, Sampler], ruler: Ruler, follows_flow: bool) -> dict[str, Any]:
    """Numbers by NFE and whether they reach the aims, which is None for a method without NFE 1."""
    rows = {nfe: ratios(ruler.measure(s), ruler, nfe, follows_flow) for nfe, s in samplers.items()}
    best = min(rows, key=lambda nfe: rows[nfe]["sliced/floor"])
    return {
        "nfe": rows,
        "best": best,
        "nearer_than_euler": rows[1]["euler/sliced"] >= NEARER if 1 in rows else None,
        "near_floor": rows[best]["sliced/floor"] <= FLOORS,
    }


def ratios(own: dict[str, float], ruler: Ruler, nfe: int, follows_flow: bool) -> dict[str, float]:
    """Every number, its ratio to the floor, and Euler's ratio to it (the larger, the nearer).

    The floor of "to_flow", a distance in d dimensions, is sqrt(d) times that along a line. An
    unbiased squared MMD may be below its floor, even below 0: Euler's ratio is then to the floor.
    """
    floor = ruler.floor | {"to_flow": ruler.floor["sliced"] * ruler.problem.dimension**0.5}
    found = {name: v for name, v in own.items() if name != "to_flow" or follows_flow}
    for name, value in list(found.items()):
        least = floor[name] if name == "mmd2" else 1e-12
        found[f"{name}/floor"] = value / floor[name]
        found[f"euler/{name}"] = ruler.euler[nfe][name] / max(value, least)
    return found
