"""``jaxdiff adapt``: a small change of a model, trained and saved alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition, takes_text
from jaxdiff.app.control import CONTROLS, shown_edges, started
from jaxdiff.app.data import check_classes, class_labels, data_of, read_data
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.objective import objective
from jaxdiff.app.options import check, placed, refuse
from jaxdiff.app.published import from_pictures
from jaxdiff.app.shown import with_measurements
from jaxdiff.app.text import in_turn, texts_condition
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.data.words import WordTokenizer, split
from jaxdiff.denoisers import description
from jaxdiff.files import check_writable
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Cond

LOW_RANK = ("lora", "dora", "dreambooth")
WITH_TOKEN = ("textual-inversion", "custom")
WITH_PRIOR = ("dreambooth", "custom")


class Shown(NamedTuple):
    """What images are trained with. images: (n, *shape), as the model takes them. cond: a row for
    each, or None. prior: of own samples, their conditions.
    """

    images: np.ndarray
    cond: Cond
    prior: Cond


def adapt(config: configs.Adapt, progress: bool = True) -> dict[str, float]:
    """Train an adapter and save it; return the metrics of the last update.

    Raises ValueError, before anything is computed, for options without effect, a model that is a
    student or conditioned on what is not given, and layers that there are not.
    """
    from jaxdiff.adapt import (
        STEERING,
        adapted,
        adapter_only,
        dreambooth,
        save_adapter,
        save_steering,
        steering_of,
        trainable,
        with_prior,
    )
    from jaxdiff.distill import Student, score_matching
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
    beside, measure = config.kind in CONTROLS, model.measure
    _check_model(config, model)
    adapter: Any = None if beside else adapter_of(config, model)
    shown, size = _shown(model, config, progress)
    optimiser = optax.adam(config.learning_rate)
    if beside:
        D = started(config.kind, model, size, config.out, config.seed)
        optimiser, classes = trainable(optimiser, STEERING), None
    else:
        D = adapted(model.denoiser, adapter, config.seed)
        optimiser, classes = adapter_only(optimiser), model.classes or None
    if measure is not None:
        classes = None  # an entry beside the measurement
    student = Student.of(D, classes=classes, label_drop=0.0, optimiser=optimiser)
    aim = _objective(model)
    data = _batches(shown, config)
    if measure is not None:
        data = with_measurements(data, measure, model.shape, config.seed)
    if config.kind in WITH_PRIOR and config.prior_weight:
        data = with_prior(data, *_own_samples(model, config, shown, progress), config.seed)
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
    if beside:
        save_steering(steering_of(student.denoiser(params)), config.out)
    else:
        token = config.token or ""
        save_adapter(config.out, model.params, adapter, params["adapter"], token=token)
    return last


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
    start = _start(config, model)
    if config.kind == "custom":
        return custom_diffusion(start, config.vectors, **of_layers)
    return TextualInversion(start, config.vectors)


def _check_options(config: configs.Adapt) -> None:
    kind = config.kind
    if kind not in LOW_RANK:
        refuse(config, f"{kind} has neither", "rank", "alpha")
    if kind in CONTROLS:
        refuse(config, f"{kind} is a network beside the model's", "layers")
    if kind not in WITH_TOKEN:
        refuse(config, f"{kind} has no new token", "token", "vectors", "start")
    elif config.token is None or config.start is None:
        raise ValueError(f"--kind {kind} needs a --token, and a word to --start from")
    if kind == "textual-inversion":
        refuse(config, "the token's rows alone are trained", "layers")
    if kind not in WITH_PRIOR:
        own = ("prior_count", "prior_weight", "prior_label", "prior_prompt", "num_steps")
        refuse(config, f"{kind} has no own samples", *own)
    if kind in (*WITH_TOKEN, "dreambooth") and config.data.path is None:
        raise ValueError(f"--kind {kind} needs images of the subject: --data.path")


def _check_model(config: configs.Adapt, model: Model) -> None:
    """Raise ValueError for options that do not go with a model."""
    if config.kind in CONTROLS:
        model.check_images(f"adapt --kind {config.kind}")
    if config.data.captions and model.tokenizer is None:
        raise ValueError("--data.captions would have no effect: this model takes no text")
    if config.kind in WITH_PRIOR and model.measure is not None:
        raise ValueError(
            f"--kind {config.kind} keeps the model's own samples, and {config.run} restores images "
            "that it is shown: --kind lora trains it on others"
        )


def _shown(model: Model, config: configs.Adapt, progress: bool) -> tuple[Shown, tuple[int, ...]]:
    """Return the images and their conditions, and the size of the images in pixels. ValueError for
    data that do not fit the model.
    """
    if config.data.path is None:
        data = data_of(model, config.data, progress)
    else:
        chosen = {k: v for k, v in vars(config.data).items() if v is not None}
        data = read_data(configs.Data(**chosen), progress)
    if model.source is None and data.shape != model.shape:
        raise ValueError(
            f"the model's samples have the shape {model.shape}, those of {data.name} {data.shape}: "
            "--data.size and --data.grayscale change it"
        )
    images = from_pictures(model.source, to_float(data.images))
    cond, prior = _conditions(model, config, data)
    rows = len(jax.tree.leaves(cond)[0]) if cond is not None else len(images)
    of_each = rows // len(images)  # texts
    if config.kind in CONTROLS:
        cond = shown_edges(cond, np.repeat(data.images, of_each, axis=0))
    return Shown(np.repeat(images, of_each, axis=0), cond, prior), data.shape[:2]


def _conditions(model: Model, config: configs.Adapt, data: Dataset) -> tuple[Cond, Cond]:
    """Return the conditions of the images, and of the own samples."""
    if model.tokenizer is not None:
        return _texts(model, config, data)
    if takes_text(model):
        raise ValueError(
            f"{config.run} is a pipeline whose text encoder is a network of its own: from Python, "
            "jaxdiff.adapt trains its U-Net with batches of encoded prompts"
        )
    check_class_condition(model, "adapt")
    of_texts = ("prompt", "prior_prompt", "token", "vectors", "start")
    refuse(config, "this model takes no text", *of_texts)
    names = model.metadata["class_names"]
    prior = class_labels(config.prior_count, model.classes, config.prior_label, names)
    if not model.classes:
        return class_labels(len(data), 0, config.label), prior
    if config.label is not None:
        return class_labels(len(data), model.classes, config.label, names), prior
    if data.labels is None:
        raise ValueError(
            f"{data.name} has no classes: give the images' --label, one of the model's"
        )
    check_classes(data, model)
    return data.labels, prior


def _texts(model: Model, config: configs.Adapt, data: Dataset) -> tuple[Cond, Cond]:
    """Return the conditions of a text model's images, and of its own samples."""
    refuse(config, "this model is conditioned on texts", "label", "prior_label")
    words = model.tokenizer
    assert words is not None
    given = (config.prompt,) if config.prompt else _templates(words) if config.token else ()
    captions: list[str] = list(data.conditions.get("text", ()))
    if not given and not captions:
        raise ValueError(f"{data.name} has no captions: give the images' --prompt")
    if config.kind == "dreambooth" and config.prior_weight and config.prior_prompt is None:
        raise ValueError(
            "own samples of a text model need a text, such as of the class: --prior-prompt"
        )
    if config.token and not all("{}" in text for text in given):
        raise ValueError(f"--prompt {config.prompt!r} does not say with {{}} where the token goes")
    known = words if config.token is None else words.with_token(config.token, config.vectors)
    texts = [text.replace("{}", config.token or "{}") for text in given] or captions
    plain = [text.replace("{}", config.start or "{}") for text in given] or captions
    own = [config.prior_prompt] if config.prior_prompt else plain
    prior = texts_condition(words, in_turn(own, config.prior_count))
    return texts_condition(known, texts if not given else texts * len(data)), prior


def _templates(words: WordTokenizer) -> tuple[str, ...]:
    """Return texts around a new token, of words that are known."""
    from jaxdiff.adapt.textual_inversion import TEMPLATES

    known = lambda text: all(w in words.vocabulary for w in split(text.replace("{}", "")))  # noqa: E731
    return tuple(text for text in TEMPLATES if known(text)) or ("{}",)


def _start(config: configs.Adapt, model: Model) -> tuple[int, ...]:
    """Return the number of the word that a new token starts as."""
    words = model.tokenizer
    if words is None:
        raise ValueError(f"{config.run} takes no text: --kind {config.kind} is of text models")
    if config.start not in words.vocabulary:
        raise ValueError(f"--start {config.start!r} is not a word that {config.run} knows")
    return (words.vocabulary[str(config.start)],)


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
