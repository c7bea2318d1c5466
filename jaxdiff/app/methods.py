"""The method of a configuration: score matching of a network, or the stages of a distillation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.app import config as configs
from jaxdiff.app.data import own_data
from jaxdiff.app.models import Model
from jaxdiff.app.network import build_network, compute_dtype, with_log_variance
from jaxdiff.app.objective import objective
from jaxdiff.app.optimiser import optimiser
from jaxdiff.app.shown import channels_of, null_of
from jaxdiff.app.snapshots import decay_name, snapshot_name
from jaxdiff.app.student_file import sampler_metadata
from jaxdiff.app.text import tokenizer_of
from jaxdiff.arrays import pick
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.denoisers import description
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.score.diff_instruct import Reward
from jaxdiff.method import Method
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.recipes.choices import Value, choices, chosen
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.devices import first_devices
from jaxdiff.training.ema import exponent, power, ramped
from jaxdiff.training.leaves import check_fits
from jaxdiff.training.step import State
from jaxdiff.typing import Array, Cond, Network, Params


def teacher_method(config: configs.Train, metadata: dict[str, Any], start: Any = None) -> Method:
    """Return how a score network is trained: from the parameters ``start``, or from random ones.

    Raises ValueError for a network that cannot be, or that does not have such parameters.
    """
    from jaxdiff.networks.parameters import init

    module, network = build_network(
        config.network,
        metadata["classes"],
        config.measure,
        tuple(metadata["shape"]),
        metadata.get("tokenizer"),
        metadata.get("pairs", 0),
    )
    fresh = lambda key: init(module, key, tuple(metadata["shape"]))  # noqa: E731
    shapes = jax.eval_shape(fresh, jax.random.key(0))
    if isinstance(config.network, configs.Module):
        _check_output(config.network, network, shapes, metadata)
    if start is None:
        return _teacher(config, network, fresh, metadata)
    start = _widened(start, shapes, config, metadata)
    check_fits(start, shapes, f"--init {config.init}")
    return _teacher(config, network, lambda key: jax.tree.map(jnp.copy, start), metadata)


def _widened(start: Any, shapes: Any, config: configs.Train, metadata: dict[str, Any]) -> Any:
    """Return parameters to start from with weights of zero for what is to stand beside x: those of
    a network that is shown nothing, which fit one that is. Others as they are.
    """
    from jaxdiff.networks.beside import widened_parameters

    channels, pairs = metadata["shape"][-1], metadata.get("pairs", 0)
    beside = pairs
    if config.measure is not None:
        beside = channels_of(config.measure, tuple(metadata["shape"]))
    return widened_parameters(start, shapes, channels, beside) if beside else start


def _check_output(
    config: configs.Module, network: Network, params: Params, metadata: dict[str, Any]
) -> None:
    """Raise ValueError for a module of the user's own whose output is not shaped as its input."""
    x = jax.ShapeDtypeStruct((2, *metadata["shape"]), jnp.dtype(config.dtype))
    label = jax.ShapeDtypeStruct((2,), jnp.float32)
    cond = jax.ShapeDtypeStruct((2,), jnp.int32) if metadata["classes"] else None
    made: Any = jax.eval_shape(lambda *given: network(*given), params, x, label, cond)
    if getattr(made, "shape", None) != x.shape:
        got = getattr(made, "shape", type(made).__name__)
        raise ValueError(
            f"{config.source} makes {got} of samples {x.shape}: a network's output is one array, "
            "of the shape of its input"
        )


def _teacher(
    config: configs.Train, network: Network, init: Any, metadata: dict[str, Any]
) -> Method:
    from jaxdiff.distill.parts.student import Student
    from jaxdiff.distill.score_matching import score_matching

    aim = objective(config)
    classes, tokenizer = metadata["classes"], tokenizer_of(metadata.get("tokenizer"))
    shown: dict[str, Any] = {"classes": classes or None}
    shown["label_drop"] = config.label_drop if classes else 0.0
    beside = config.measure is not None or bool(metadata.get("pairs", 0))
    if (null := null_of(classes, tokenizer, beside)) is not None:
        drop = config.label_drop if {*null} == {"text"} else dict.fromkeys(null, config.label_drop)
        shown = {"null": null, "label_drop": drop}
    student = Student(
        network, init, aim.prediction, aim.process, metadata["sigma_data"], **shown,
        optimiser=optimiser(config), ema=_averages(config),
        compute_dtype=compute_dtype(config.network),
    )  # fmt: skip
    return score_matching(student, weight=aim.weight, levels=aim.levels)


def _averages(config: configs.Train) -> dict[str, Any]:
    """Return the averages of a run: the one that sampling uses, and those of snapshots."""
    widths = {snapshot_name(std): power(exponent(std)) for std in config.ema_std}
    first, *others = config.ema
    kept = {decay_name(decay): ramped(decay) for decay in others}
    return {"average": ramped(first)} | kept | widths


def average(state: State) -> Any:
    """Return the averaged parameters of a run's only player, which sampling uses."""
    (averages,) = state.ema.values()
    return averages["average"]


def check_method(config: configs.Distill, teacher: Model) -> None:
    """Raise ValueError for a teacher that is a student, choices that the method has not, or a batch
    that does not divide as it requires.
    """
    if teacher.student:
        raise ValueError(f"{config.teacher} is itself a student; distil its teacher")
    recipe = RECIPES[config.method]
    given = chosen(config.method, recipe, config.choices)
    if recipe.divides:
        known = choices(recipe)[recipe.divides].default
        _check_divides(config, recipe.divides, given.get(recipe.divides, known))


def _check_divides(config: configs.Distill, name: str, size: int) -> None:
    parts = config.gradient_accumulation
    if config.parallel == "pmap":
        parts *= len(first_devices(config.devices) or jax.devices())
    if config.batch % (parts * size):
        raise ValueError(
            f"--batch {config.batch} in parts: {parts} does not divide into groups of {size}, "
            f"which {config.method} compares with each other: choose another, or --choices {name}"
        )


def stages_of(
    config: configs.Distill, teacher: Model, reward: Callable[[], Reward] | None = None
) -> list[Stage]:
    """Return the stages of a configuration. Raises ValueError for a teacher that is a student.

    reward: makes the reward, for stages that are to be trained; without it they have one that
    cannot be called.
    """
    check_method(config, teacher)
    goal = goal_of(config, teacher)
    if teacher.classes and goal.null is None:
        goal = goal._replace(reward=reward or (lambda: _no_reward))
    return make_stages(config.method, goal, config.choices)


def _no_reward(samples: Array, cond: Cond) -> Array:
    raise RuntimeError("stages that are restored to be looked at have no reward to train with")


def class_reward(data: Dataset, seed: int) -> Reward:
    """``reward(samples, classes)``: the log-probability (batch,) that a small classifier, trained
    on these images, gives to the class of each sample. ValueError for data without classes.
    """
    from jaxdiff.metrics.features import classifier_features

    if data.labels is None:
        raise ValueError(f"a reward needs classes, and {data.name} has none")
    classifier, _ = classifier_features(to_float(data.images), data.labels, seed)

    def reward(samples: Array, cond: Cond) -> Array:
        return pick(jax.nn.log_softmax(classifier.logits(samples), axis=1), cond)

    return reward


def make_stages(method: str, goal: Goal, given: Mapping[str, Value]) -> list[Stage]:
    """The stages of a recipe. ValueError naming the choices it has, for one that it has not."""
    recipe = RECIPES[method]
    return recipe.stages(goal, **chosen(method, recipe, given))


def goal_of(config: configs.Distill, teacher: Model) -> Goal:
    """Return what a recipe starts from: a teacher, and networks that extend its own, where that is
    one of a run; ValueError for others.
    """
    from jaxdiff.networks.adapters import from_linen
    from jaxdiff.networks.parameters import graft, init

    module, params = teacher.module, teacher.params
    made = description(teacher.denoiser)
    if made is None:
        raise ValueError(f"{config.teacher} has no network that a student could start from")

    def network(labels: int, log_variance: bool) -> tuple[Network, Params]:
        if labels == 1 and not log_variance:
            return made["network"], made["params"]
        if teacher.published is not None:
            needed = f"{labels} labels" if labels > 1 else "a log variance beside its output"
            raise ValueError(
                f"{config.method} needs a network with {needed}; that of the published weights "
                f"{config.teacher} takes one label and has none. Choose another --method"
            )
        larger = with_log_variance(module, log_variance)
        fresh = init(larger, jax.random.key(config.seed), teacher.shape, labels=labels)
        return from_linen(larger), graft(params, fresh)

    low, high = teacher.levels
    null = null_of(teacher.classes, teacher.tokenizer, teacher.shown)
    return Goal(
        teacher.denoiser, network, teacher.shape, config.updates, config.learning_rate,
        classes=(teacher.classes or None) if null is None else None, null=null,
        sigma_data=teacher.metadata["sigma_data"],
        low=low, high=high,
        # long: it starts as its teacher, not as noise
        seed=config.seed, ema={"average": ramped(config.ema, 0.5)},
    )  # fmt: skip


def student_metadata(
    config: configs.Distill, teacher: Model, method: Method, state: State
) -> dict[str, Any]:
    """Return what a student's file says of it."""
    own = configs.of_run(own_data(teacher) or configs.Data(), config.data)
    metadata = teacher.metadata | {
        "kind": "student",
        "method": config.method,
        "updates": config.updates,
    }
    metadata |= {} if own is None else {"data": dataclasses.asdict(own)}
    if teacher.published is not None:
        path = teacher.metadata["source"]["path"]
        metadata |= {"source": {"path": path, "fingerprint": fingerprint(teacher.params)}}
    made = functools.partial(method.sampler, state)
    return metadata | {"samplers": sampler_metadata(made, teacher.published)}
