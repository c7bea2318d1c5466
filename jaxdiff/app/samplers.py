"""The sampler that options describe: of a solver on a grid, of a saved table, or a student's own.

An option that would have no effect is an error that names it.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app.boxes import KEYS, attends
from jaxdiff.app.conditions import takes_text
from jaxdiff.app.control import nulls_of
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, given, refuse
from jaxdiff.app.student_file import blend, decode
from jaxdiff.app.text import away
from jaxdiff.conditioning.guidance import classifier_free, negative_prompt
from jaxdiff.distill.parts.guidance_weights import check_guidance_weight
from jaxdiff.pretrained.scheduler import Scheduler
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table, table_of_dict
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.steps import Learned, load_steps
from jaxdiff.typing import Solver

SOLVERS = {known.name: known.solver for known in solvers.SOLVERS if known.command_line}
WITH_ORDERS = {known.name: known.orders for known in solvers.SOLVERS if known.orders}
GRIDS = {
    "karras": grids.karras,
    "log_snr": grids.log_snr,
    "vp_time": grids.vp_time,
    "arctan": grids.arctan,
    "cosine": grids.cosine,
}
OF_GRID = ("grid", "end", "low", "high")
OF_SOLVERS = ("solver", "order", *OF_GRID, "noise_levels")
STEPS = 10


def make_sampler(
    model: Model,
    config: configs.Sample | configs.Evaluate | configs.Export,
    num_steps: int | None = None,
) -> Sampler:
    """Return the sampler that a configuration describes, in ``num_steps`` steps (by default the
    configuration's if they are one number, else 10 for a teacher and 1 for a student).

    Raises ValueError for options without effect, or without meaning for this model.
    """
    check(config)
    if num_steps is None and isinstance(config.num_steps, int):
        num_steps = config.num_steps
    if getattr(config, "discriminator", None) is None:
        refuse(config, "there is no --discriminator", "discriminator_weight")
    D = model.denoiser
    if config.table is not None:
        refuse(config, "a table has its own solver, steps and levels", *OF_SOLVERS, "num_steps")
        chosen = load_steps(config.table)
        warn_of_other(chosen, model, config.guidance)
    elif model.student:
        refuse(config, "a student has its own sampler; --num-steps chooses among its", *OF_SOLVERS)
        refuse(config, "a discriminator is of a teacher", "discriminator")
        return student_sampler(model, 1 if num_steps is None else num_steps, config.guidance)
    else:
        chosen = _solved(model, config, STEPS if num_steps is None else num_steps)
    if config.guidance is not None:
        D = guided(model, D, config.guidance, getattr(config, "negative_prompt", None))
    if not isinstance(config, configs.Export) and config.discriminator is not None:
        from jaxdiff.app.discriminate import guided_by

        D = guided_by(config.discriminator, model, D, config.discriminator_weight)
    scheduler = scheduler_of(model)
    return Sampler(D if scheduler is None else scheduler.thresholded(D), chosen)


def scheduler_of(model: Model) -> Scheduler | None:
    """Return the scheduler of a diffusers folder that a model was read from; None of another."""
    source = model.source
    known = (
        () if source is None else (source.parts.get("scheduler"), source.metadata.get("scheduler"))
    )
    return next((one for one in known if isinstance(one, Scheduler)), None)


def range_text(model: Model) -> str:
    """Return, in words, in which range a model's scheduler keeps outputs; "" for none."""
    scheduler = scheduler_of(model)
    if scheduler is None or model.student:
        return ""
    name, quantile = scheduler.name, scheduler.quantile
    if quantile is not None:
        return f"outputs are thresholded at their quantile {quantile:g}, as {name} does"
    if scheduler.clip is not None:
        return f"outputs are clipped to {scheduler.clip:g}, as {name} does"
    if scheduler.config.get("clip_sample"):
        return f"outputs are not clipped, as {name} would by its clip_sample"
    return ""


def _solved(model: Model, config: Any, num_steps: int) -> Table:
    """Return the table of a solver on a grid: of published weights on their publishers' own, if
    nothing is said of one.
    """

    def wanted(name: str, default: Any) -> Any:
        value = getattr(config, name, None)
        return default if value is None else value

    solver, end = SOLVERS[wanted("solver", "dpmpp")], wanted("end", "zero")
    check_order(solver, getattr(config, "order", None))
    low, high = model.levels
    if own := getattr(config, "noise_levels", ()):
        refuse(config, "--noise-levels are the grid", *OF_GRID, "num_steps")
        check_levels(own)
        levels: Any = np.asarray(own)
    elif model.source is None or given(config, "grid", "end", "low", "high"):
        levels = GRIDS[wanted("grid", "karras")](
            num_steps, wanted("low", low), wanted("high", high), zero=end == "zero"
        )
    else:
        levels = model.source.grid(num_steps)
    order = {} if getattr(config, "order", None) is None else {"order": config.order}
    return table(solver, levels, denoise=end == "denoise", **order)


def check_levels(levels: Sequence[float]) -> None:
    """Raise ValueError for noise levels that no solver can step through."""
    if len(levels) < 2 or any(s <= r for s, r in pairwise(levels)):
        raise ValueError(f"--noise-levels are two or more, each below the one before, not {levels}")


def check_order(solver: Solver, order: int | None) -> None:
    """Raise ValueError for an order of a solver that has none."""
    if order is not None and solver.__name__ not in WITH_ORDERS:
        raise ValueError(
            f"--order would have no effect: {solver.__name__} has one order only; those with "
            f"several are {', '.join(n for n in SOLVERS if n in WITH_ORDERS)}"
        )


def warn_of_other(chosen: Table | Learned, model: Model, guidance: float | None) -> None:
    """Warn of a tuned table that was tuned for another model or another guidance weight.

    Raises ValueError for learned steps of another model, whose features or sizes they go with.
    """
    from jaxdiff.training.checkpoint import fingerprint

    known, own = chosen.metadata, fingerprint(model.params)
    if known.get("model", own) != own and isinstance(chosen, Learned):
        raise ValueError(
            f"{chosen.name} was learned with the model {known['model']} "
            f"({known.get('source', 'unknown')}), and is of no use with another: this one is {own}"
        )
    if known.get("model", own) != own:
        warnings.warn(
            f"{chosen.name} was tuned for the model {known['model']} "
            f"({known.get('source', 'unknown')}); this one is {own}: a baseline may do "
            "better",
            stacklevel=2,
        )
    elif "guidance" in known and _weight(known["guidance"]) != _weight(guidance):
        warnings.warn(
            f"{chosen.name} was tuned with guidance weight {known['guidance']}, not {guidance}: a "
            "baseline may do better",
            stacklevel=2,
        )


def _weight(guidance: float | None) -> float:
    return 1.0 if guidance is None else float(guidance)


def guided(model: Model, D: Any, weight: float, negative: str | None = None) -> Any:
    """Return a model's denoiser with classifier-free guidance. ValueError for a model without
    classes and prompts, and for a network with no class that stands for none.

    negative: of a run that is conditioned on texts, the text to keep away from.
    """
    none, pictures = nulls_of(model)
    if model.pairs and (model.tokenizer is not None or model.classes):
        pictures = (*pictures, "beside")
    if model.tokenizer is not None:
        null: dict[str, Any] = away(model.tokenizer, negative, model.classes) | none
        null |= dict.fromkeys(KEYS) if attends(model) else {}
        return classifier_free(D, weight, null, keep=pictures)
    if takes_text(model):
        return negative_prompt(D, weight)
    if model.shown and not model.classes:
        return classifier_free(D, weight)
    if not model.classes:
        raise ValueError("guidance needs a model with classes; this one has none")
    if not getattr(model.module, "null_class", True):
        raise ValueError(f"guidance needs a network with a class for none; {model!r} has none")
    return classifier_free(
        D, weight, {"classes": model.classes} if pictures else None, keep=pictures
    )


def student_sampler(model: Model, num_steps: int, weight: float | None = None) -> Sampler:
    """Return the sampler of a student in ``num_steps`` evaluations.

    weight: guidance, for a student that was trained for a range of weights and is conditioned on
    it. Raises ValueError for steps that its method does not have, or a weight that the student is
    not conditioned on.
    """
    samplers = model.metadata["samplers"]
    if str(num_steps) not in samplers:
        raise ValueError(
            f"a student by {model.metadata['method']} can sample with {' or '.join(samplers)} "
            f"evaluations, not with {num_steps}"
        )
    entry = samplers[str(num_steps)]
    text = entry["denoiser"]
    if weight is not None:
        if "guidance" not in entry:
            raise ValueError(
                f"--guidance would have no meaning: a student by {model.metadata['method']} is not "
                "conditioned on a guidance weight (one by guided_distillation is), and has not "
                "learnt an unconditional model; distil a guided teacher, or sample without"
            )
        if known := entry.get("guidance_range"):
            try:
                check_guidance_weight(weight, *known)
            except ValueError as error:
                raise ValueError(f"--guidance {weight:g}: {error}") from error
        try:
            low, high = entry["guidance"]
            text = blend(low, high, weight)
        except Exception as error:  # as many types as there are mistakes
            raise ValueError(
                f"this student cannot be conditioned on a weight: {error!r}"
            ) from error
    D = decode(text, model.module, model.params, model.published)
    return Sampler(D, table_of_dict(entry["table"]), entry.get("latent", 0))
