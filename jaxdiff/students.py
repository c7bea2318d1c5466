"""Students: a finished run distilled by any recipe, saved so that it samples as its method does.

A student's ``model.npz`` says, besides its parameters, how its network becomes a denoiser and, for
each number of evaluations that its method knows, the table that samples it and the numbers that the
network is told (a guidance weight, a number of steps).
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import config as configs
from jaxdiff import runs
from jaxdiff.distill.mean_flow import saturating
from jaxdiff.distill.stages import Stage
from jaxdiff.distill.trajectory_operator import nearest
from jaxdiff.files import real_array
from jaxdiff.prediction import conditioned_call, denoiser
from jaxdiff.process import EDM, VP, RectifiedFlow, TrigFlow
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import table_of_dict
from jaxdiff.training.checkpoint import save_params
from jaxdiff.training.ema import constant
from jaxdiff.training.stages import fit_stages
from jaxdiff.typing import Denoiser, Network, Params

STEPS = (1, 2, 3, 4, 5, 6, 8)
# What a file may name; it can name nothing else.
WRAPPERS: dict[str, Callable[..., Any]] = {
    "conditioned": conditioned_call,
    "flow map of trajectories": nearest,
}
LABELS: dict[str, Any] = {"default": None, "saturating": saturating}
PROCESSES: dict[str, Any] = {p.__name__: p for p in (EDM, VP, RectifiedFlow, TrigFlow)}


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
        progress=progress, **runs.placed(config),
    )  # fmt: skip
    about = teacher.about | {"kind": "student", "method": config.method}
    about |= {"samplers": described(functools.partial(method.sampler, state))}
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
    params = teacher.params

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        if labels == 1 and not log_variance:
            return from_linen(module), params
        larger = module.clone(log_variance=log_variance)
        fresh = init(larger, jax.random.key(config.seed), teacher.shape, labels=labels)
        return from_linen(larger), graft(params, fresh)

    return Goal(
        teacher.denoiser, network, teacher.shape, config.steps, config.learning_rate,
        classes=teacher.classes or None, sigma_data=teacher.about["sigma_data"],
        seed=config.seed, ema={"average": constant(config.ema)},
    )  # fmt: skip


def described(sampler: Callable[..., Sampler]) -> dict[str, Any]:
    """What ``sampler(steps=n)`` gives, as plain values, by steps. Numbers of steps that the method
    refuses are left out; for a sampler with an option ``weight`` there is what weights 0 and 1
    give, between and beyond which its numbers are linear.
    """
    weighted = "weight" in inspect.signature(sampler).parameters
    samplers: dict[str, Any] = {}
    for steps in STEPS:
        try:
            made = sampler(steps=steps, ema="average")
        except ValueError:
            continue
        entry: dict[str, Any] = {
            "table": made.table.to_dict(), "denoiser": encode(made.denoiser), "latent": made.latent
        }  # fmt: skip
        if weighted:
            at = lambda w, n=steps: encode(sampler(steps=n, ema="average", weight=w).denoiser)  # noqa: E731
            entry["weights"] = [at(0.0), at(1.0)]
        samplers[str(steps)] = entry
    if not samplers:
        raise ValueError(f"the method samples in none of {STEPS} steps")
    return samplers


def encode(D: Any) -> dict[str, Any]:
    """How a denoiser is made of its network's parameters, as plain values. TypeError for one that
    is made of anything unknown.
    """
    if (name := next((n for n, f in WRAPPERS.items() if f is D.func), None)) is not None:
        first, *rest = D.args
        plain = jax.tree.map(lambda x: np.asarray(x, np.float64).tolist(), rest)
        return {"wrapper": name, "of": encode(first), "arguments": plain}
    label = next((n for n, f in LABELS.items() if f is D.func.label), None)
    network = type(D.func.apply).__name__
    if label is None or network not in ("Linen", "Temporal"):
        raise TypeError(f"a student of network {network} and label {D.func.label} cannot be saved")
    _, process, sigma_data, sigma_min = D.args
    fields = {f.name: float(getattr(process, f.name)) for f in dataclasses.fields(process)}
    return {
        "prediction": D.func.prediction,
        "process": [type(process).__name__, fields],
        "label": label,
        "sigma_data": float(sigma_data),
        "sigma_min": float(sigma_min),
        "network": network,
        "log_variance": D.func.apply.module.log_variance,
    }


def decode(text: dict[str, Any], module: Any, params: Params) -> Any:
    """The denoiser that :func:`encode` described. ValueError for what it cannot have said."""
    try:
        return _decoded(text, module, params)
    except Exception as error:  # as many types as there are mistakes
        raise ValueError(f"a student's denoiser cannot be {text!r:.60}: {error!r}") from error


def _decoded(text: dict[str, Any], module: Any, params: Params) -> Any:
    from jaxdiff.networks.adapters import from_linen
    from jaxdiff.networks.temporal import Temporal

    if "wrapper" in text:
        numbers = [_arrays(given) for given in text["arguments"]]
        first = _decoded(text["of"], module, params)
        return jax.tree_util.Partial(WRAPPERS[text["wrapper"]], first, *numbers)
    if type(text["log_variance"]) is not bool:
        raise TypeError("'log_variance' should be true or false")
    module = module.clone(log_variance=text["log_variance"])
    made = {"Linen": from_linen, "Temporal": Temporal}[text["network"]]
    name, fields = text["process"]
    return denoiser(
        made(module), params, prediction=text["prediction"],
        process=PROCESSES[name](**{k: _number(v) for k, v in fields.items()}),
        sigma_data=_number(text["sigma_data"]), sigma_min=_number(text["sigma_min"]),
        label=LABELS[text["label"]],
    )  # fmt: skip


def _number(given: Any) -> float:
    if type(given) not in (int, float) or not math.isfinite(given):
        raise TypeError(f"{given!r:.60} is not a number")
    return float(given)


def _arrays(given: Any) -> Any:
    """An argument of a wrapper: an array, or a dictionary of arrays."""
    if isinstance(given, dict):
        return {k: _arrays(v) for k, v in given.items()}
    numbers = real_array(given)
    if not (np.abs(numbers) < np.finfo(np.float32).max).all():
        raise ValueError(f"{given!r:.60} is not finite in single precision")
    return jnp.asarray(numbers, jnp.float32)


def blend(a: Any, b: Any, w: float) -> Any:
    """Return a + w (b - a) for every float in two trees of plain values that agree in the rest."""
    if isinstance(a, dict):
        return {k: blend(a[k], b[k], w) for k in a}
    if isinstance(a, list):
        return [blend(x, y, w) for x, y in zip(a, b, strict=True)]
    return a + w * (b - a) if isinstance(a, float) else a


def load_denoiser(about: dict[str, Any], params: Params) -> Denoiser:
    """The denoiser of a saved student, as it samples in the fewest steps. ValueError if it does not
    say how it samples.
    """
    first = next(iter(_samplers(about).values()))
    return decode(first["denoiser"], runs.build_module(about), params)


def _samplers(about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of :func:`described`. ValueError for what it cannot have said."""
    try:
        samplers = {str(int(steps)): dict(entry) for steps, entry in about["samplers"].items()}
        whole = bool(samplers) and type(about["method"]) is str
    except Exception as error:  # as many types as there are mistakes
        raise ValueError(f"it does not say how the student samples: {error!r}") from error
    if not whole or not all(_whole(entry) for entry in samplers.values()):
        raise ValueError(f"so no student samples: {samplers!r:.60}")
    return samplers


def _whole(entry: dict[str, Any]) -> bool:
    """Whether an entry has its parts, of which table and denoiser say themselves if they cannot be
    read.
    """
    latent, weights = entry.get("latent", 0), entry.get("weights", [0, 1])
    return (
        {"table", "denoiser"} <= {*entry} <= {"table", "denoiser", "latent", "weights"}
        and type(latent) is int
        and latent >= 0
        and type(weights) is list
        and len(weights) == 2
    )


def student_sampler(model: runs.Model, steps: int, weight: float | None = None) -> Sampler:
    """The sampler of a student in ``steps`` evaluations.

    weight: guidance. A student that was trained for a range of weights is told it; another one is
    guided as a teacher is (:mod:`jaxdiff.conditioning.guidance`). Raises ValueError for steps that
    its method does not have, or guidance without classes.
    """
    samplers = model.about["samplers"]
    if str(steps) not in samplers:
        raise ValueError(
            f"a student by {model.about['method']} can sample with {' or '.join(samplers)} "
            f"evaluations, not with {steps}"
        )
    entry = samplers[str(steps)]
    text = entry["denoiser"]
    if weight is not None and "weights" in entry:
        try:
            low, high = entry["weights"]
            text = blend(low, high, weight)
        except Exception as error:  # as many types as there are mistakes
            raise ValueError(f"this student cannot be told a weight: {error!r}") from error
    D = decode(text, runs.build_module(model.about), model.params)
    if weight is not None and "weights" not in entry:
        D = runs.guided(model, D, weight)
    return Sampler(D, table_of_dict(entry["table"]), entry.get("latent", 0))


def history(run: str | Path) -> list[dict[str, Any]]:
    """The logged losses of a run, one stage after the other, steps counted through."""
    from jaxdiff.training.history import HISTORY, read_history

    folder = Path(run) / "checkpoints"
    if (folder / HISTORY).exists():
        return read_history(folder)
    rows, done = [], 0
    for stage in sorted(folder.iterdir(), key=lambda p: int(p.name.split("-")[0])):
        own = read_history(stage)
        rows += [row | {"step": row["step"] + done, "stage": stage.name} for row in own]
        done += own[-1]["step"] if own else 0
    return rows
