"""``jaxdiff adapt``: a small change of a model, trained and saved alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.app import boxes, picture_prompt
from jaxdiff.app import config as configs
from jaxdiff.app.adapt_shown import Shown, shown_images
from jaxdiff.app.adapt_texts import start_of
from jaxdiff.app.control import CONTROLS, started
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.objective import objective
from jaxdiff.app.options import check, placed, refuse
from jaxdiff.app.shown import with_measurements
from jaxdiff.app.text import away
from jaxdiff.denoisers import description
from jaxdiff.files import check_writable
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Cond

LOW_RANK = ("lora", "dora", "dreambooth")
WITH_TOKEN = ("textual-inversion", "custom")
WITH_PRIOR = ("dreambooth", "custom")


def adapt(config: configs.Adapt, progress: bool = True) -> tuple[Model, dict[str, float]]:
    """Train an adapter and save it; return the model that it is of, and the metrics of the last
    update.

    Raises ValueError, before anything is computed, for options without effect, a model that is a
    student or conditioned on what is not given, and layers that there are not.
    """
    from jaxdiff.adapt import dreambooth, save_adapter, save_steering, steering_of, with_prior
    from jaxdiff.adapt.box_files import save_boxes
    from jaxdiff.distill import score_matching
    from jaxdiff.training.loop import fit

    check(config)
    folder = config.kind in CONTROLS and Path(config.out).is_dir()
    check_writable(Path(config.out) / "config.json" if folder else config.out)
    _check_options(config)
    model = load_model(config.run, config.checkpoint, progress)
    if model.student:
        raise ValueError(f"{config.run} is a student; an adapter is of its teacher")
    if description(model.denoiser) is None:
        raise ValueError(f"{config.run} has no network of its own that an adapter could change")
    beside, measure = config.kind in (*CONTROLS, "gligen"), model.measure
    _check_model(config, model)
    adapter: Any = None if beside else adapter_of(config, model)
    given, size = shown_images(model, config, progress)
    student = _steered(config, model, given, size) if beside else _adapted(config, model, adapter)
    aim = _objective(model)
    data = _batches(given, config)
    if measure is not None:
        data = with_measurements(data, measure, model.shape, config.seed)
    if config.kind in WITH_PRIOR and config.prior_weight:
        data = with_prior(data, *_own_samples(model, config, given, progress), config.seed)
        method = dreambooth(student, prior_weight=config.prior_weight, **aim)
    else:
        method = score_matching(student, **aim)
    last: dict[str, float] = {}
    state = fit(
        method, data, num_updates=config.updates, key=config.seed, progress=progress,
        log=lambda step, row: last.update({k: float(v) for k, v in row.items()}),
        **placed(config),
    )  # fmt: skip
    params = state.params["student"]
    if config.kind == "gligen":
        save_boxes(student.denoiser(params), config.out)
    elif beside:
        save_steering(steering_of(student.denoiser(params)), config.out)
    else:
        token = config.token or ""
        save_adapter(config.out, model.params, adapter, params["adapter"], token=token)
    return model, last


def _adapted(config: configs.Adapt, model: Model, adapter: Any) -> Any:
    """Return the student whose network has an adapter inside, which alone is trained."""
    from jaxdiff.adapt import adapted, adapter_only
    from jaxdiff.distill import Student

    optimiser = adapter_only(optax.adam(config.learning_rate))
    alone = not (model.measure or model.pairs or model.tokenizer)  # else an entry beside others
    classes = model.classes or None if alone else None
    D = adapted(model.denoiser, adapter, config.seed)
    return Student.of(D, classes=classes, label_drop=0.0, optimiser=optimiser)


def _steered(config: configs.Adapt, model: Model, given: Shown, size: tuple[int, ...]) -> Any:
    """Return the student with a network beside its own, which alone is trained."""
    from jaxdiff.adapt import BOXES, STEERING, trainable
    from jaxdiff.distill import Student

    drop: dict[str, Any] = {"label_drop": 0.0}
    free: Any = STEERING
    if config.kind == "ip":
        assert isinstance(given.cond, dict) and model.tokenizer is not None
        none = picture_prompt.nothing_shown(width := given.cond["image"].shape[1])
        drop = {"null": away(model.tokenizer, classes=model.classes) | {"image": none}}
        drop["label_drop"] = dict.fromkeys(drop["null"], picture_prompt.DROPPED)
        D = picture_prompt.started(model, width, config.out, config.seed)
    elif config.kind == "gligen":
        assert model.tokenizer is not None
        drop = {"null": away(model.tokenizer, classes=model.classes)}
        drop["label_drop"] = dict.fromkeys(drop["null"], boxes.DROPPED)
        D, free = boxes.started(model, config.out, config.seed), BOXES
    else:
        D = started(config.kind, model, size, config.out, config.seed, given.channels)
    optimiser = trainable(optax.adam(config.learning_rate), free)
    return Student.of(D, classes=None, optimiser=optimiser, **drop)


def adapter_of(config: configs.Adapt, model: Model) -> Any:
    """Return the adapter of a configuration. ValueError for a token's start that there is not."""
    from jaxdiff.adapt import (
        LowRank,
        SpectralShift,
        TextualInversion,
        Whole,
        custom_diffusion,
    )

    of_layers: dict[str, Any] = {"layers": config.layers} if config.layers else {}
    if config.kind in LOW_RANK:
        dora = config.kind == "dora"
        return LowRank(config.rank, alpha=config.alpha, dora=dora, **of_layers)
    if config.kind in ("svdiff", "whole"):
        return (SpectralShift if config.kind == "svdiff" else Whole)(**of_layers)
    start = start_of(config, model)
    if config.kind == "custom":
        return custom_diffusion(start, config.vectors, **of_layers)
    return TextualInversion(start, config.vectors)


def _check_options(config: configs.Adapt) -> None:
    kind = config.kind
    if kind not in LOW_RANK:
        refuse(config, f"{kind} has neither", "rank", "alpha")
    if kind in (*CONTROLS, "gligen"):
        refuse(config, f"{kind} is a network beside the model's", "layers")
    if kind != "ip":
        refuse(config, f"{kind} reads none", "features")
    if kind not in WITH_TOKEN:
        refuse(config, f"{kind} has no new token", "token", "vectors", "start")
    elif config.token is None or config.start is None:
        raise ValueError(f"--kind {kind} needs a --token, and a word to --start from")
    if kind == "textual-inversion":
        refuse(config, "the token's rows alone are trained", "layers")
    if kind not in WITH_PRIOR:
        own = ("prior_count", "prior_weight", "prior_label", "prior_prompt", "num_steps")
        refuse(config, f"{kind} has no own samples", *own)
    elif not config.prior_weight:
        own = ("prior_count", "prior_label", "prior_prompt", "num_steps")
        refuse(config, "--prior-weight 0 makes no own samples", *own)
    if kind in (*WITH_TOKEN, "dreambooth") and config.data.path is None:
        raise ValueError(f"--kind {kind} needs images of the subject: --data.path")


def _check_model(config: configs.Adapt, model: Model) -> None:
    """Raise ValueError for options that do not go with a model."""
    if config.kind in CONTROLS:
        model.check_images(f"adapt --kind {config.kind}")
    if config.kind == "gligen" and model.tokenizer is None:
        raise ValueError(
            f"{config.run} is no run of texts: --kind gligen says where what a text names is; "
            "of published weights jaxdiff.adapt.with_boxes makes such a network"
        )
    if config.kind == "ip" and model.tokenizer is None:
        raise ValueError(
            f"{config.run} is no run of texts: --kind ip adds pictures to what it attends to; of "
            "published weights jaxdiff.adapt.ip_adapter_of makes one"
        )
    if config.data.captions and model.tokenizer is None:
        raise ValueError("--data.captions would have no effect: this model takes no text")
    if config.kind in WITH_PRIOR and (model.measure is not None or model.pairs):
        raise ValueError(
            f"--kind {config.kind} keeps the model's own samples, and {config.run} makes images of "
            "one that it is shown: --kind lora trains it on others"
        )
    if config.data.pairs and config.kind not in CONTROLS and not model.pairs:
        raise ValueError(
            f"--data.pairs would have no effect: neither --kind {config.kind} nor this run is "
            f"shown a picture; {', '.join(CONTROLS)} are"
        )


def _objective(model: Model) -> dict[str, Any]:
    """Return levels and weight that the model was trained with; of a run of earlier versions, which
    does not say, those of its process and prediction.
    """
    if model.published is not None:
        return {}
    said = {k: model.metadata[k] for k in ("process", "prediction", "sigma_data")}
    known = objective(configs.Train("", **said, **model.metadata.get("objective", {})))
    return {"levels": known.levels, "weight": known.weight}


def _batches(shown: Shown, config: configs.Adapt) -> Callable[[int], dict[str, Any]]:
    """``data(step)``, rows drawn anew for each."""

    def data(step: int) -> dict[str, Any]:
        rng = np.random.default_rng([config.seed, step])
        rows = rng.integers(0, len(shown.images), config.batch)
        batch: dict[str, Any] = {"image": shown.images[rows]}
        if shown.cond is not None:
            batch["label"] = jax.tree.map(lambda a: np.asarray(a)[rows], shown.cond)
        return batch

    return data


def _own_samples(
    model: Model, config: configs.Adapt, shown: Shown, progress: bool
) -> tuple[np.ndarray, Cond]:
    """Return own samples of the model, as it is, and their conditions."""
    levels = grids.karras(config.num_steps, *model.levels)
    sampler = Sampler(model.denoiser, table(solvers.dpmpp, levels, order=2))
    made = generate(
        sampler, config.prior_count, model.shape, shown.prior, batch=config.prior_count,
        seed=config.seed, progress=progress, title="own samples", bounds=model.bounds,
        **placed(config),
    )  # fmt: skip
    return made, shown.prior
