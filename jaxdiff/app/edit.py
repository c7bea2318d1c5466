"""The command ``jaxdiff edit``: images edited by a model; the numbers first, then the picture."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition, say_alone
from jaxdiff.app.data import same_classes
from jaxdiff.app.load import load_model
from jaxdiff.app.measured_images import images_of, labels_of
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, refuse
from jaxdiff.app.published import from_pictures, picture_shape, to_pictures
from jaxdiff.app.sample import save_figure
from jaxdiff.app.samplers import guided
from jaxdiff.conditioning import editing
from jaxdiff.files import check_writable, replacing
from jaxdiff.grids import karras
from jaxdiff.metrics.similarity import psnr, ssim
from jaxdiff.report.images import apart
from jaxdiff.report.page import write_numbers
from jaxdiff.report.restoration import restorations
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.training.checkpoint import fingerprint

FILES = ("edited.json", "edited.npz", "edited.png")
STRENGTH = 0.5
SHOWN = 12  # images in a row of the picture


def edit(config: configs.Edit, progress: bool = True) -> None:
    """Edit images: the arrays and numbers are saved, then the picture is made.

    Raises ValueError for options that do not go together, and a model or images that do not:
    before anything is sampled.
    """
    check(config)
    folder = Path(config.out)
    for name in FILES:
        check_writable(folder / name)
    target = _model(config.run, config.checkpoint, progress)
    source = target if config.source is None else _model(config.source, None, progress)
    levels = checked(config, target, source)
    wanted = picture_shape(target.source, target.shape)
    images, own, shown = images_of(target, config, wanted, progress)
    to = labels_of(target, config.label, own, len(images))
    of = None
    if config.method != "sdedit":
        known = own if same_classes(target, source) else None  # numbers of the target's classes
        of = labels_of(source, config.source_label, known, len(images), "--source-label")
    given = images if target.bounds else from_pictures(target.source, images)
    found = edited(config, target, source, levels, given, to, of)
    if not np.isfinite(found).all():
        raise FloatingPointError(f"{config.method} gave images that are not finite")
    low, high = target.bounds or (-1.0, 1.0)
    if target.bounds is None:
        flat = to_pictures(target.source, found.reshape(-1, *target.shape))
        found = flat.reshape(*found.shape[:2], *wanted)
    found = np.clip(found, low, high)
    with replacing(folder / "edited.npz") as file:
        np.savez(file, allow_pickle=False, original=images, edited=found, levels=levels)
    again = np.repeat(images, config.samples, axis=0)
    flat = found.reshape(again.shape)
    numbers = {
        "run": config.run, "source": config.source, "method": config.method, "images": shown,
        "psnr to original": psnr(flat, again, high - low).tolist(),
        "ssim to original": ssim(flat, again, high - low).tolist(),
    }  # fmt: skip
    write_numbers(folder / "edited.json", numbers)
    near = np.mean(numbers["ssim to original"])
    print(f"{len(flat)} edits by {config.method}, SSIM to the originals {near:.3f}: {folder}/"
          "edited.json, edited.npz", flush=True)  # fmt: skip
    rows = {"original": images[:, None], "edited": found}
    save_figure(lambda: restorations(_shown(target, rows)), folder / "edited.png")


def _model(run: str, checkpoint: str | None, progress: bool) -> Model:
    """Return a model of images, or of latents with their autoencoder, that has a denoiser.
    ValueError for another.
    """
    model = load_model(run, checkpoint, progress)
    model.check_images("edit")
    check_class_condition(model, "edit")
    if model.student:
        raise ValueError(f"{run} is a student; editing takes a denoiser, its teacher")
    say_alone(model, run, progress)
    picture_shape(model.source, model.shape)  # its error now
    return model


def checked(config: configs.Edit, target: Model, source: Model) -> np.ndarray:
    """Return the grid. ValueError for options without effect, for a source and a target that are
    one and the same, and for models of other images.
    """
    if config.method == "sdedit":
        refuse(config, "sdedit knows nothing of what the images are", "source", "source_label")
    elif config.source is None and config.label == config.source_label:
        raise ValueError(f"{config.method} needs a difference: --label, --source-label, --source")
    if config.method == "ddib":
        refuse(config, "ddib has one edit of an image", "samples")
        refuse(config, "ddib goes through all noise levels", "strength")
    if (source.shape, source.bounds) != (target.shape, target.bounds):
        raise ValueError(f"--source makes {source.shape}, --run {target.shape}: one is needed")
    if target.bounds is None and config.source is not None:
        codes = [m.source.parts["vae"] for m in (target, source)]  # type: ignore[union-attr]
        seen = [(fingerprint(v.params), float(v.scale), float(v.shift)) for v in codes]
        if seen[0] != seen[1]:
            raise ValueError("--source has another autoencoder than --run: latents of one are none "
                             "of the other")  # fmt: skip
    low, high = config.low or target.levels[0], config.high or target.levels[1]
    if not low < high:
        raise ValueError(f"--low {low:g} must be below --high {high:g}")
    whole = np.asarray(karras(config.num_steps, low, high, zero=config.method != "ddib"))
    if config.guidance is not None:
        if config.label is None:
            raise ValueError("--guidance would have no effect: there is no --label to guide to")
        guided(target, target.denoiser, config.guidance)  # its error now
    if config.method == "ddib":
        return whole
    return editing.last_steps(whole, config.strength or STRENGTH)


def edited(
    config: configs.Edit, target: Model, source: Model, levels: np.ndarray, images: np.ndarray,
    to: np.ndarray | None, of: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """Return edits (n, samples, *shape) of images (n, *shape)."""
    count, key = config.samples, jax.random.key(config.seed)
    data = jnp.asarray(np.repeat(images, count, axis=0))
    labels = [None if c is None else jnp.asarray(np.repeat(c, count)) for c in (of, to)]
    weight = config.guidance
    D = target.denoiser if weight is None else guided(target, target.denoiser, weight)
    if config.method == "ddib":
        found: Any = editing.translate(source.denoiser, D, solvers.euler, levels, data, *labels)
    elif config.method == "flow_edit":
        found = editing.flow_edit(source.denoiser, D, levels, data, *labels, key=key)
    else:
        first = editing.noised(data, float(levels[0]), key)
        found = sample(D, table(solvers.ddim, levels, eta=1.0), first, labels[1], key=key)
    return np.asarray(found).reshape(len(images), count, *images.shape[1:])


def _shown(model: Model, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the picture's rows, in [-1, 1]."""
    made, source = {}, None if model.bounds is None else model.source
    for name, row in rows.items():
        some = row[:SHOWN, : max(1, SHOWN // len(row))]
        flat = apart(to_pictures(source, some.reshape(-1, *some.shape[2:])))
        made[name] = flat.reshape(*some.shape[:2], *flat.shape[1:])
    return made
