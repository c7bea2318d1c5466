"""``jaxdiff optimise``: images that are optimised by score distillation, the numbers first."""

from pathlib import Path

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition, say_alone
from jaxdiff.app.data import class_labels
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import check
from jaxdiff.app.published import to_pictures
from jaxdiff.app.sample import draw, save_numbers
from jaxdiff.app.samplers import guided
from jaxdiff.distill.parts.student import Student
from jaxdiff.files import check_writable
from jaxdiff.method import Method
from jaxdiff.recipes.choices import chosen
from jaxdiff.recipes.scenes import OF_IMAGES, Images
from jaxdiff.training.loop import fit


def optimise(config: configs.Optimise, progress: bool = True) -> np.ndarray:
    """Optimise images of a run, write samples.npz and samples.png, and return the images
    (count, *shape) in [-1, 1]. One device is used.

    Raises ValueError, before anything is computed, for a run that is a student, whose denoiser is
    of no use at most noise levels, and for choices that the method has not.
    """
    check(config)
    given = chosen(config.method, OF_IMAGES[config.method], config.choices)
    model = load_model(config.run, config.checkpoint, progress)
    model.check_images("optimise")
    if model.student:
        raise ValueError(f"{config.run} is a student; optimise images of its teacher")
    check_class_condition(model, "optimise")
    say_alone(model, config.run, progress)
    labels = class_labels(config.count, model.classes, config.label, model.metadata["class_names"])
    folder = Path(config.out)
    for name in ("samples.npz", "samples.png"):
        check_writable(folder / name)
    method = method_of(config, model, given)
    batch = {} if labels is None else {"label": labels.astype(np.int32)}
    state = fit(
        method, lambda step: batch, num_updates=config.updates, key=config.seed, progress=progress,
        devices=jax.devices()[:1],
    )  # fmt: skip
    made = np.asarray(state.params["student"])
    images = np.clip(to_pictures(model.source, made), -1.0, 1.0)
    save_numbers(folder / "samples.npz", images, labels, model, made)
    print(f"{len(images)} images by {config.method}: {folder}/samples.npz", flush=True)
    draw(images[:100], folder / "samples.png")
    return images


def method_of(config: configs.Optimise, model: Model, given: dict[str, object]) -> Method:
    """Return the method with its choices. ValueError for guidance of a model without classes."""
    D, weight = model.denoiser, config.guidance
    own = Student.of(D, classes=model.classes or None)
    teacher = D if weight is None else guided(model, D, weight)
    images = Images(teacher, own, config.count, model.shape, config.updates)
    return OF_IMAGES[config.method].makes(images, **given)
