"""The command ``jaxdiff restore``: images of a model given measurements of them, by many methods;
the numbers first, printed and saved; then the picture.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.app import config as configs
from jaxdiff.app import shown
from jaxdiff.app.image_features import user_features
from jaxdiff.app.load import load_model
from jaxdiff.app.measured_images import given_images
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, refuse
from jaxdiff.app.published import picture_shape, to_pictures
from jaxdiff.app.restoration_methods import (
    METHODS,
    Pictures,
    Problem,
    of_particles,
    of_student,
    runner,
)
from jaxdiff.app.restoration_refusals import doubt, refusal
from jaxdiff.app.restoration_scores import Setting, in_words, picture_rows, scores
from jaxdiff.app.restoration_tasks import operator_of
from jaxdiff.app.sample import save_figure
from jaxdiff.app.samplers import student_sampler
from jaxdiff.conditioning.operators import Linear, Measurement, Operator, measure, nonlinear
from jaxdiff.files import check_writable, replacing
from jaxdiff.grids import karras
from jaxdiff.report.page import write_numbers
from jaxdiff.report.restoration import restorations
from jaxdiff.sampling.start import start
from jaxdiff.typing import Array

PARTICLES, STEPS = 64, 50
FILES = ("restored.json", "restored.npz", "restored.png")


def restore(config: configs.Restore, progress: bool = True) -> str:
    """Restore images by one or several methods: measure, restore, save the numbers, draw the
    picture; return the table.

    Raises ValueError for options that do not go together, a model or images that the task is not
    for, and methods that do not take the measurement: before anything is sampled.
    """
    check(config)
    folder = Path(config.out)
    for name in FILES:
        check_writable(folder / name)
    setting, chosen, options = prepared(config, progress)
    for name in chosen:
        if reason := doubt(METHODS[name], setting.seen, data_std(setting.model)):
            warnings.warn(f"{name} will restore badly: {reason}", stacklevel=2)
    restored: dict[str, np.ndarray] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name in chosen:
        if progress:
            print(f"restoring by {name}", flush=True)
        began = time.perf_counter()
        found, more = restored_by(name, setting, config)
        seconds = time.perf_counter() - began
        restored[name] = found
        numbers[name] = scores(found, setting) | more | {"seconds": seconds}
        if not np.isfinite(found).all():
            warnings.warn(f"{name} gave images that are not finite", stacklevel=2)
        save(folder, setting, config, options, restored, numbers)  # whatever becomes of the next
    said = in_words(numbers, setting)
    print(f"{said}\nnumbers: {folder}/restored.json, restored.npz", flush=True)
    rows = picture_rows(setting, restored)
    save_figure(lambda: restorations(rows), folder / "restored.png")
    return said


def prepared(config: configs.Restore, progress: bool) -> tuple[Setting, list[str], dict[str, Any]]:
    """Return what methods have in common, the methods, and the task's options. Errors as
    :func:`restore`'s.
    """
    model = load_model(config.run, config.checkpoint, progress)
    model.check_images("restore")
    student = None
    if model.student:
        if model.measure is None:
            raise ValueError(
                f"{config.run} is a student of a network that is shown no measurement: restore by "
                "its teacher"
            )
        refuse(config, "a student has its own sampler; --num-steps chooses among its",
               "low", "high")  # fmt: skip
        student = student_sampler(model, config.num_steps or 1)
    bounds = model.bounds or (-1.0, 1.0)
    operator, options = operator_of(config, picture_shape(model.source, model.shape), bounds)
    own = of_latents(operator, model) if model.bounds is None else operator
    noise = config.noise * (bounds[1] - bounds[0]) / 2
    blank = Measurement(own, jnp.zeros(operator.measured), noise)
    pictures = operator if model.bounds is None else None
    chosen = methods_of(config, blank, unseen_by(model, config, options), pictures, model.student)
    low, high = config.low or model.levels[0], config.high or model.levels[1]
    if not low < high:
        raise ValueError(f"--low {low:g} must be below --high {high:g}")
    if high * float(_least(operator)) <= noise and {"ddrm"} & set(chosen):
        raise ValueError(f"ddrm starts above the measurement's noise: raise --high from {high:g}")
    given = given_images(model, operator, config, progress)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    if given.truth is not None:
        seen = measure(operator, jnp.asarray(given.truth), noise, key)
    else:
        seen = Measurement(operator, jnp.asarray(given.observed), noise)
    levels = np.asarray(
        karras(config.num_steps or STEPS, low, high) if student is None else student.table.levels
    )
    return Setting(model, given, seen, levels, own, features_of(config), student), chosen, options


def features_of(config: configs.Restore) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the feature function that is named. Errors as :func:`user_features`'s, and ValueError
    for one without a truth to compare with.
    """
    if config.features is None:
        return None
    if config.measured:
        raise ValueError("--features would have no effect: with --measured there is no truth")
    if not config.features.startswith("module:"):
        raise ValueError(f"--features is module:FILE.py:FUNCTION, not {config.features}")
    return user_features(config.features.removeprefix("module:"), progress=False).function


def _least(operator: Operator) -> Array:
    """Return the least singular value above 0, 1 where there are none known."""
    if not isinstance(operator, Linear):
        return jnp.ones(())
    values = operator.svd.singular
    return jnp.min(jnp.where(values > 0, values, jnp.max(values)))


def of_latents(operator: Operator, model: Model) -> Operator:
    """Return what an operator of images sees of the latents that a model makes. ValueError for a
    model without an autoencoder.
    """
    vae: Any = model.source.parts["vae"]  # type: ignore[union-attr]
    return nonlinear(lambda z: operator.apply(vae.decode(z)), model.shape)


def unseen_by(model: Model, config: configs.Restore, options: dict[str, Any]) -> str | None:
    """Return why a model's network is not shown the measurement; None if it is."""
    measure = model.measure
    return shown.refusal(measure, config.task, options, config.noise)


def methods_of(
    config: configs.Restore, measurement: Measurement, unseen: str | None = shown.NOTHING,
    pictures: Operator | None = None, student: bool = False,
) -> list[str]:  # fmt: skip
    """Return the methods of a configuration. unseen: why the model's own network is not shown the
    measurement. pictures: of a model of latents, what is measured of their pictures. student:
    whether the model is one. ValueError for a method that does not take the measurement, and for
    ``method`` beside ``methods``.
    """
    if config.method is not None and config.methods is not None:
        raise ValueError("give --method, one, or --methods, several or all: one of the two")
    given = (measurement, unseen, pictures, student)
    why = {name: refusal(method, *given) for name, method in METHODS.items()}
    able = [name for name, reason in why.items() if reason is None]
    if student and "network" not in able:
        raise ValueError(f"the student is not shown this measurement: {unseen}")
    quiet = not float(measurement.noise) and "ddnm" in able
    order = ("network", *["ddnm"] * quiet, "mmps", "pigdm", "dps")
    usual = next(name for name in order if name in able)
    named = [config.method or usual] if config.methods is None else _split(config.methods)
    chosen = able if named == ["all"] else named
    for name in chosen:
        if why[name] is not None:
            raise ValueError(
                f"{name} does not take this measurement: {why[name]}. These do: {', '.join(able)}"
            )
    if not any(METHODS[name].particles for name in chosen):
        refuse(config, "no method chosen has particles", "particles")
    elif config.samples > (config.particles or PARTICLES):
        raise ValueError(f"--samples {config.samples} needs as many --particles or more")
    return chosen


def _split(methods: str) -> list[str]:
    """Return names of methods. ValueError for one that there is not."""
    names = list(dict.fromkeys(name.strip() for name in methods.split(",")))
    if names != ["all"] and (unknown := [name for name in names if name not in METHODS]):
        raise ValueError(
            f"--methods is all, or of {', '.join(METHODS)}, with commas between; not "
            f"{', '.join(map(repr, unknown))}"
        )
    return names


def restored_by(
    name: str, setting: Setting, config: configs.Restore
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a method's restorations (images, samples, *shape), within the range of images, and
    what else is known of them.
    """
    method = METHODS[name]
    if setting.student is not None and method.shown:
        run, nfe = of_student(setting.student), setting.student.table.nfe
    else:
        run = runner(method, setting.levels)
        nfe = method.evaluations(len(setting.levels) - 1)
    more: dict[str, Any] = {"nfe": nfe}
    if method.particles:
        found, worth = _with_particles(run, setting, config)
        more |= {"particles": config.particles or PARTICLES, "effective particles": worth}
    else:
        found = _in_batches(run, setting, config)
    if setting.model.bounds is None:
        flat = to_pictures(setting.model.source, found.reshape(-1, *found.shape[2:]))
        return flat.reshape(*found.shape[:2], *flat.shape[1:]), more
    return np.clip(found, *setting.model.bounds), more


def _in_batches(run: Any, setting: Setting, config: configs.Restore) -> np.ndarray:
    """Return a method's samples, ``batch`` rows at a time; the last batch repeats its last row."""
    images, key = len(setting.seen.observation), jax.random.key(config.seed)
    count = images * config.samples
    block, parts = min(config.batch, count), []
    for first in range(0, count, block):
        rows = np.minimum(np.arange(first, first + block), count - 1)
        made = run(_problem(setting, rows // config.samples, rows, key))
        parts.append(np.asarray(made))
    x = np.concatenate(parts)[:count]
    return x.reshape(images, config.samples, *x.shape[1:])


def _problem(setting: Setting, images: np.ndarray, rows: np.ndarray, key: Any) -> Problem:
    model, seen = setting.model, setting.seen
    cond = jax.tree.map(lambda a: jnp.asarray(a[images]), setting.given.cond)
    first = start(key, setting.levels, jnp.asarray(rows, jnp.int32), model.shape)
    own = Measurement(setting.own, seen.observation[images], seen.noise)
    index = jnp.asarray(rows, jnp.int32)
    pictures = None
    if model.bounds is None:
        vae: Any = model.source.parts["vae"]  # type: ignore[union-attr]
        pixels = Measurement(seen.operator, seen.observation[images], seen.noise)
        pictures = Pictures(pixels, Partial(vae.encode), Partial(vae.decode))
    return Problem(model.denoiser, own, first, key, index, cond, data_std(model), pictures)


def _with_particles(
    run: Any, setting: Setting, config: configs.Restore
) -> tuple[np.ndarray, list[float]]:
    """Return a particle method's samples, one measurement at a time, and for each the effective
    number of its particles.
    """
    particles, seen = config.particles or PARTICLES, setting.seen
    given: Any = setting.given.cond
    found, worth = [], []
    for i, observation in enumerate(seen.observation):
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        cond = jax.tree.map(lambda a, i=i: jnp.repeat(a[i : i + 1], particles, 0), given)
        own = Measurement(setting.own, observation, seen.noise)
        p = Problem(setting.model.denoiser, own, jnp.zeros(()), key, jnp.zeros(()), cond,
                    data_std(setting.model))  # fmt: skip
        x, effective = of_particles(run, p, float(setting.levels[0]), particles, config.samples)
        found.append(np.asarray(x))
        worth.append(float(effective))
    return np.stack(found), worth


def data_std(model: Model) -> float:
    """Return the standard deviation that a model takes data to have."""
    return float(model.metadata["sigma_data"])


def save(
    folder: Path, setting: Setting, config: configs.Restore, options: dict[str, Any],
    restored: dict[str, np.ndarray], rows: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Write the arrays and the scores, each whole or not at all."""
    arrays = {"observation": np.asarray(setting.seen.observation), "levels": setting.levels}
    arrays |= {} if setting.given.truth is None else {"truth": setting.given.truth}
    arrays |= {f"restored by {name}": found for name, found in restored.items()}
    with replacing(folder / "restored.npz") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    numbers = {
        "run": config.run, "task": config.task, "options": options, "noise": config.noise,
        "images": setting.given.shown, "shape": list(setting.model.shape),
        "measured": list(setting.seen.operator.measured), "samples": config.samples,
        "num_steps": len(setting.levels) - 1, "seed": config.seed, "methods": rows,
    }  # fmt: skip
    write_numbers(folder / "restored.json", numbers)
