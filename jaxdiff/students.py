"""Students: a finished run distilled by any recipe, saved so that it samples as its method does.

A student's ``model.npz`` says, besides its parameters, how its network becomes a denoiser and, for
each number of evaluations that its method knows, the table that samples it and the numbers that the
network is told (a guidance weight, a number of steps).
"""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import config as configs
from jaxdiff import process as processes
from jaxdiff import runs
from jaxdiff.distill.stages import Stage
from jaxdiff.prediction import conditioned, denoiser
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import table_of_dict
from jaxdiff.training.checkpoint import save_params
from jaxdiff.training.ema import constant
from jaxdiff.training.stages import fit_stages
from jaxdiff.typing import Denoiser, Network, Params

STEPS = (1, 2, 3, 4, 5, 6, 8)


def distill(config: configs.Distill, progress: bool = True) -> runs.Model:
    """Distil a finished teacher into a student, or resume; return the finished student.

    Raises ValueError for a teacher that is a student, or a choice that the method does not have.
    """
    teacher = runs.load_model(config.teacher)
    if teacher.student:
        raise ValueError(f"{config.teacher} is itself a student; distil its teacher")
    stages = make_stages(config.method, goal_of(config, teacher), config.choices)
    data = runs.read_data(configs.Data(**teacher.about["data"]), progress)
    folder = runs.begin(config)
    method, state = fit_stages(
        stages, runs.batches_of(data, config, teacher.about), steps=config.steps, key=config.seed,
        ema="average", checkpoint=folder / "checkpoints", save_every=config.save_every,
        parallel=config.parallel, progress=progress,
    )  # fmt: skip
    about = teacher.about | {"kind": "student", "method": config.method}
    about |= described(lambda steps: method.sampler(state, steps=steps, ema="average"))
    save_params(folder / "model.npz", state.ema["student"]["average"], about)
    return runs.load_model(folder)


def make_stages(method: str, goal: Goal, choices: dict[str, float]) -> list[Stage]:
    """The stages of a recipe. ValueError naming the choices it has, for one that it has not."""
    stages = RECIPES[method].stages
    known = list(inspect.signature(stages).parameters)[1:]
    if unknown := sorted(set(choices) - set(known)):
        raise ValueError(
            f"{method} has no choice {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
        )
    whole = {k: int(v) if float(v).is_integer() else float(v) for k, v in choices.items()}
    return stages(goal, **whole)


def goal_of(config: configs.Distill, teacher: runs.Model) -> Goal:
    """What a recipe starts from: the teacher of a run, and networks that extend its own."""
    from jaxdiff.networks.adapters import from_linen, graft, init

    module = runs.build_module(teacher.about)
    params = teacher.denoiser.args[0]

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        if labels == 1 and not log_variance:
            return from_linen(module), params
        larger = module.clone(log_variance=log_variance)
        fresh = init(larger, jax.random.key(config.seed), teacher.shape, labels=labels)
        return from_linen(larger), graft(params, fresh)

    return Goal(
        teacher.denoiser, network, teacher.shape, config.steps, config.learning_rate,
        classes=teacher.classes or None, sigma_data=teacher.about["sigma_data"],
        ema={"average": constant(config.ema)},
    )  # fmt: skip


def described(sampler: Any) -> dict[str, Any]:
    """What ``sampler(steps)`` gives, as plain values: the denoiser's formula, and by steps the
    tables and the numbers bound. Numbers of steps that the method refuses are left out.
    """
    samplers, formula = {}, None
    for steps in STEPS:
        try:
            made = sampler(steps)
        except ValueError:
            continue
        formula, numbers = _formula(made.denoiser)
        samplers[str(steps)] = {"table": made.table.to_dict(), "numbers": numbers}
    if formula is None:
        raise ValueError(f"the method samples in none of {STEPS} steps")
    return {"formula": formula, "samplers": samplers}


def _formula(D: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """How a denoiser is made of its network, and the numbers bound to it."""
    numbers: dict[str, float] = {}
    while len(D.args) == 2:  # conditioned(D, **numbers)
        D, bound = D.args
        numbers = {k: float(v) for k, v in bound.items()} | numbers
    _, process, sigma_data, sigma_min = D.args
    fields = {f.name: float(getattr(process, f.name)) for f in dataclasses.fields(process)}
    formula = {
        "prediction": D.func.prediction,
        "process": [type(process).__name__, fields],
        "sigma_data": float(sigma_data),
        "sigma_min": float(sigma_min),
        "log_variance": D.func.apply.module.log_variance,
    }
    return formula, numbers


def load_denoiser(about: dict[str, Any], params: Params) -> Denoiser:
    """The denoiser that :func:`described` described, without numbers bound."""
    from jaxdiff.networks.adapters import from_linen

    formula = about["formula"]
    module = runs.build_module(about).clone(log_variance=formula["log_variance"])
    name, fields = formula["process"]
    return denoiser(
        from_linen(module), params, prediction=formula["prediction"],
        process=getattr(processes, name)(**fields), sigma_data=formula["sigma_data"],
        sigma_min=formula["sigma_min"],
    )  # fmt: skip


def student_sampler(model: runs.Model, steps: int, weight: float | None = None) -> Sampler:
    """The sampler of a student in ``steps`` evaluations, with classifier-free guidance by
    ``weight``. ValueError for steps that its method does not have, or guidance without classes.
    """
    samplers = model.about["samplers"]
    if str(steps) not in samplers:
        raise ValueError(
            f"a student by {model.about['method']} samples in {', '.join(samplers)} steps, "
            f"not in {steps}"
        )
    entry = samplers[str(steps)]
    bound = {k: jnp.asarray(v, jnp.float32) for k, v in entry["numbers"].items()}
    D = conditioned(model.denoiser, **bound) if bound else model.denoiser
    if weight is not None:
        D = runs.guided(model, D, weight)
    return Sampler(D, table_of_dict(entry["table"]))


def history(run: str | Path) -> list[dict[str, Any]]:
    """The logged losses of a run, one stage after the other, steps counted through."""
    from jaxdiff.training.loop import HISTORY, read_history

    folder = Path(run) / "checkpoints"
    if (folder / HISTORY).exists():
        return read_history(folder)
    rows, done = [], 0
    for stage in sorted(folder.iterdir(), key=lambda p: int(p.name.split("-")[0])):
        own = read_history(stage)
        rows += [row | {"step": row["step"] + done, "stage": stage.name} for row in own]
        done += own[-1]["step"] if own else 0
    return rows
