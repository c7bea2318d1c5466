"""Six inverse problems on images, by every method that takes them.

    python -m experiments.inverse [--model digits mnist] [--task NAME ...] [--folder ../shared/data]

Priors are the two models that come with the package, images those of the test sets. Every task is
measured with noise 0.05 and restored by all methods of ``jaxdiff restore`` that take it, and
without noise by those that are for such measurements alone. Scores are those of ``jaxdiff
restore``. Rows are written as they are made, and not made again; the images of each stand in
``--arrays``; those of the last model make the picture. ``--task`` alone, with no name, only makes
the page.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.inverse.report import page, picture
from jaxdiff.app import config as configs
from jaxdiff.app.restoration_methods import METHODS
from jaxdiff.app.restoration_refusals import refusal
from jaxdiff.app.restoration_scores import Setting, scores
from jaxdiff.app.restore import prepared, restored_by
from jaxdiff.files import read_json, replacing, write_text

MODELS = ("digits", "mnist")
TASKS = ("inpaint", "pixels", "super", "blur", "projections", "jpeg")
NOISE = 0.05
SETTINGS = {"count": 8, "samples": 4, "steps": 20, "particles": 32}
SCORES = ("psnr", "psnr of mean", "ssim", "misfit", "spread", "nfe")
WITHOUT = ("network", "bicubic")  # no prior of the two; needs a network of its own


def main(given: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the page and draw the picture."""
    options = arguments_of(given)
    rows: list[dict[str, Any]] = []
    if os.path.exists(options.json):
        rows = read_json(options.json)["rows"]
    for model in options.model:
        for task in options.task:
            for noise in (NOISE, 0.0):
                for row in made(model, task, noise, options, rows):
                    rows.append(row)
                    kept = {"settings": SETTINGS, "machine": machine(), "rows": rows}
                    write_text(options.json, json.dumps(kept, indent=1) + "\n")
                    print(row, flush=True)
    picture(options.arrays, MODELS, TASKS, options.picture)
    write_text(options.markdown, page(read_json(options.json), options.picture.exists()))
    return 0


def made(
    model: str, task: str, noise: float, options: argparse.Namespace, rows: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Measure the methods of a task that have no row yet."""
    setting, config = problem(model, task, noise, options)
    with replacing(options.arrays / f"{model}-{task}-{noise:g}-measured.npz") as file:
        np.savez(file, truth=setting.given.truth, observation=setting.seen.observation)  # type: ignore[arg-type]
    for name in able(setting):
        same = {"model": model, "task": task, "noise": noise, "method": name}
        if any(same.items() <= row.items() for row in rows):
            continue
        found, more = restored_by(name, setting, config)
        with replacing(options.arrays / f"{model}-{task}-{noise:g}-{name}.npz") as file:
            np.savez(file, restored=found)  # type: ignore[arg-type]
        row = scores(found, setting) | more
        yield same | {key: row[key] for key in SCORES}


def problem(
    model: str, task: str, noise: float, options: argparse.Namespace
) -> tuple[Setting, configs.Restore]:
    """Return what a task's methods have in common, and the configuration."""
    given: dict[str, Any] = {"count": SETTINGS["count"]}
    if model == "mnist":
        path = options.arrays / "mnist.npz"
        with np.load(options.folder / "mnist.npz") as data, replacing(path) as file:
            np.savez(file, images=data["test_images"][: SETTINGS["count"]])  # type: ignore[arg-type]
        given = {"images": (str(path),)}
    config = configs.Restore(
        run=model, task=task, noise=noise, samples=SETTINGS["samples"], methods="tds",
        num_steps=SETTINGS["steps"], particles=SETTINGS["particles"], **given,
    )  # fmt: skip
    if not noise or task == "jpeg":  # no method of particles is among these
        config = configs.Restore(**(vars(config) | {"methods": "dps", "particles": None}))
    return prepared(config, progress=False)[0], config


def able(setting: Setting) -> list[str]:
    """Return the methods that take a measurement; without noise those that take no other."""
    quiet = not float(setting.seen.noise)
    names = [n for n in METHODS if n not in WITHOUT and (METHODS[n].noise == "none") == quiet]
    return [n for n in names if refusal(METHODS[n], setting.seen) is None]


def machine() -> str:
    """Return the machine, in words."""
    return f"{platform.machine()}, {jax.devices()[0].platform}, jax {jax.__version__}"


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.inverse")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--task", nargs="*", choices=TASKS, default=TASKS)
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"), help="of mnist.npz")
    parser.add_argument("--arrays", type=Path, default=Path("runs/inverse"))
    here = Path("experiments/results")
    parser.add_argument("--json", type=Path, default=here / "inverse.json")
    parser.add_argument("--markdown", type=Path, default=here / "inverse.md")
    parser.add_argument("--picture", type=Path, default=here / "inverse.png")
    options = parser.parse_args(given)
    if options.task and "mnist" in options.model and not (options.folder / "mnist.npz").exists():
        parser.error(f"--folder {options.folder} has no mnist.npz")
    options.arrays.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
