"""``jaxdiff sample``: images of a model, the numbers first, then the picture."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.adapters import with_adapters
from jaxdiff.app.boxes import boxed
from jaxdiff.app.cascading import enlarging
from jaxdiff.app.conditions import conditions, prompts_of
from jaxdiff.app.control import controlled
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import placed
from jaxdiff.app.published import to_pictures, without_pictures
from jaxdiff.app.samplers import make_sampler, range_text
from jaxdiff.app.text import classes_of, in_turn
from jaxdiff.files import check_writable, replacing
from jaxdiff.training import hosts


def sample(config: configs.Sample) -> None:
    """Sample a model: the numbers first, then the picture."""
    model = with_adapters(load_model(config.run, config.checkpoint, progress=True), config.adapter)
    sampler = make_sampler(model, config, config.num_steps)
    if (said := range_text(model)) and hosts.is_main_process():
        print(said, flush=True)
    labels = conditions(model, config)
    cond = boxed(model, controlled(model, labels, config), config)
    folder = Path(config.out)
    for name in ("samples.npz", "samples.png", "sampler.json"):
        check_writable(folder / name)
    given, small = enlarging(model, config, cond)
    samples = generate(
        sampler, config.count, model.shape, given, batch=config.batch, seed=config.seed,
        bounds=model.bounds, **placed(config),
    )  # fmt: skip
    if not hosts.is_main_process():
        return
    labels = classes_of(labels, model.classes) if model.classes else None
    images = None if without_pictures(model) else to_pictures(model.source, samples)
    save_numbers(
        folder / "samples.npz", images, labels, model, samples,
        in_turn(prompts, config.count) if (prompts := prompts_of(config)) else None, small,
    )  # fmt: skip
    sampler.table.save(folder / "sampler.json")
    print(
        f"{len(samples)} samples by {sampler.table!r}: {folder}/samples.npz, sampler.json",
        flush=True,
    )
    if model.arrays:
        print(f"they are arrays of shape {'x'.join(map(str, model.shape))}: there is no picture")
    elif images is None:
        print("they are latents, and there is no autoencoder that would make images of them")
    else:
        draw(images[:100], folder / "samples.png")


def save_numbers(
    path: Path, images: Any, labels: Any, model: Model, latents: Any = None,
    prompts: Sequence[str] | None = None, small: Any = None,
) -> None:  # fmt: skip
    """Write images, with their labels and the classes' names if there are any, or their prompts,
    the small ones that they enlarge, and the latents of a model of those, or samples that are
    neither, whole or not at all.
    """
    arrays: dict[str, Any] = {} if images is None else {"images": images}
    name = "samples" if model.arrays else "latents"
    arrays |= {name: latents} if model.bounds is None else {}
    if labels is not None:
        arrays |= {"labels": labels, "class_names": np.array(model.metadata["class_names"])}
    arrays |= {} if small is None else {"small": small}
    arrays |= {} if prompts is None else {"prompts": np.array(prompts)}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def draw(images: Any, path: Path) -> None:
    """Make the picture of some samples, without which their numbers are still there."""
    from jaxdiff.report.images import apart, image_grid

    save_figure(lambda: image_grid(apart(images), columns=10), path)


def save_figure(make: Callable[[], Any], path: Path) -> None:
    """Make a figure and save it, saying where; whatever goes wrong is a warning."""
    if saved(make, path):
        print(f"their picture: {path}")


def saved(make: Callable[[], Any], path: Path, **options: Any) -> bool:
    """Return whether a figure could be made and saved; whatever goes wrong is a warning."""
    try:
        make().savefig(path, **options)
    except Exception as error:  # of whatever draws it
        warnings.warn(f"the picture {path} could not be made: {error}", stacklevel=3)
        return False
    return True
