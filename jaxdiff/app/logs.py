"""What a run is logged to, and what is looked at while it trains: samples and their distance.

Every so many updates the averaged parameters make samples of the same noise and classes. They are
drawn, and their sliced Wasserstein distance to as many of the data is measured in their own numbers
at several numbers of evaluations: a cheap score, for watching; ``jaxdiff evaluate`` is for results.
It goes to the logs and to ``quality/`` in the run's folder.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import folder as folders
from jaxdiff.app.generate import generate
from jaxdiff.app.models import LEVELS
from jaxdiff.app.options import placed
from jaxdiff.app.student_file import STEPS
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training import hosts, sinks
from jaxdiff.training.history import HISTORY, History, read_history

QUALITY = "quality"
SHOWN = 100  # samples of a picture, 10 by 10
TEACHER = (5, 10, 20)  # steps of DPM-Solver++, each one evaluation
STUDENT = (1, 2, 4)
Run = configs.Train | configs.Distill
Data = Callable[[int], Mapping[str, Any]]
Samplers = Callable[[Any, Any], dict[int, Sampler]]


def check_log(config: Run) -> None:
    """Raise ValueError for a log whose package is missing."""
    try:
        sinks_of(config, Path(config.run))
    except ImportError as error:
        raise ValueError(f"--log: {error}") from error


def sinks_of(config: Run, folder: Path) -> list[sinks.Sink]:
    """Return the logs of a run, none of which is opened yet."""
    known = config_file.to_dict(config)
    made = {
        "tensorboard": lambda: sinks.tensorboard(folder / "tensorboard"),
        "wandb": lambda: sinks.wandb(folder, config=known),
        "trackio": lambda: sinks.trackio(folder, config=known),
    }
    return [made[name]() for name in dict.fromkeys(config.log)]


def sample_every(config: Run) -> int | None:
    """Return the updates between two looks at samples, None for no look."""
    if config.sample_every is None and config.log:
        return max(1, config.updates // 10)
    return config.sample_every


def of_teacher(method: Any, state: Any) -> dict[int, Sampler]:
    """Return the samplers that a score network is looked at with, by evaluations."""
    low, high = LEVELS
    tables = {n: table(solvers.dpmpp, grids.karras(n, low, high)) for n in TEACHER}
    return {n: method.sampler(state, table=made, ema="average") for n, made in tables.items()}


def of_student(method: Any, state: Any) -> dict[int, Sampler]:
    """Return the samplers that a student is looked at with, by evaluations: those of 1, 2 and 4
    steps that its method has, or else its first.
    """
    found: dict[int, Sampler] = {}
    for steps in (*STUDENT, *STEPS):
        if len(found) and steps not in STUDENT:
            break
        try:
            made = method.sampler(state, num_steps=steps, ema="average")
        except ValueError:  # steps that the method does not have
            continue
        found.setdefault(made.table.nfe, made)
    return found


class Look(NamedTuple):
    """A look at a run's samples every so many updates.

    samplers: of a method and a state. images, labels: of the data, as many as are sampled.
    others: as many of the data again, None where there are too few. began: the update that the run
    goes on from. drawn: makes pictures of samples, None where there are none.
    """

    config: Run
    samplers: Samplers
    images: np.ndarray
    labels: Any
    others: np.ndarray | None
    bounds: tuple[float, float] | None
    drawn: Callable[[np.ndarray], np.ndarray] | None
    sinks: Sequence[sinks.Sink]
    seen: set[int]
    began: int

    def __call__(self, method: Any, step: int, state: Any) -> bool:
        """Sample, measure, draw and write; False, as training goes on."""
        if step <= self.began and step in self.seen:
            return False
        numbers, pictures = {}, None
        for nfe, sampler in self.samplers(method, state).items():
            samples = self._samples(sampler)
            if samples is None:
                continue
            pictures = samples
            numbers[f"{QUALITY}/nfe_{nfe}"] = distance(samples, self.images)
        if self.others is not None:
            numbers[f"{QUALITY}/data"] = distance(self.others, self.images)
        if not hosts.is_main_process():
            return False
        for sink in self.sinks:
            sink.scalars(step, numbers)
        if pictures is not None and self.drawn is not None:
            self._draw(step, pictures)
        return False

    def _draw(self, step: int, samples: np.ndarray) -> None:
        """Draw samples in every log; whatever goes wrong is a warning, and training goes on."""
        assert self.drawn is not None
        try:
            made = sheet(self.drawn(samples))
            for sink in self.sinks:
                sink.picture(step, "samples", made)
        except Exception as error:  # of whatever draws it
            warnings.warn(f"the picture of update {step} could not be made: {error}", stacklevel=3)

    def _samples(self, sampler: Sampler) -> np.ndarray | None:
        config = self.config
        try:
            return generate(
                hosts.whole(sampler), len(self.images), self.images.shape[1:], self.labels,
                batch=config.batch, seed=config.seed, progress=False, bounds=self.bounds,
                parallel=config.parallel, devices=placed(config)["devices"],
            )  # fmt: skip
        except FloatingPointError as error:  # of a network that has not learnt yet
            warnings.warn(f"not looked at: {error}", stacklevel=3)
            return None


def look_at(
    config: Run,
    folder: Path,
    data: Data,
    size: int,
    samplers: Samplers,
    bounds: tuple[float, float] | None,
    drawn: Callable[[np.ndarray], np.ndarray] | None,
    logs: Sequence[sinks.Sink],
) -> Look | None:
    """Return the look at a run's samples that a configuration asks for; None for none. size: of
    the data set, which batches go through again and again.
    """
    if sample_every(config) is None:
        return None
    began = sum(max(made) for _, made in folders.stage_checkpoints(folder) if made)
    kept, seen = History(folder / QUALITY), set()
    if (kept.folder / HISTORY).exists():
        if began < config.updates:
            kept.resume(began)
        seen = {row["step"] for row in read_history(kept.folder)}
    images, labels = first_samples(data, min(2 * SHOWN, size))
    images, others = images[:SHOWN], images[SHOWN:] if size >= 2 * SHOWN else None
    labels = jax.tree.map(lambda x: x[: len(images)], labels)
    if labels is not None and np.ndim(labels) == 1:  # the rows of the picture by class
        order = np.argsort(labels, kind="stable")
        images, labels = images[order], labels[order]
    return Look(
        config, samplers, images, labels, others, bounds, drawn, [kept, *logs], seen, began
    )  # fmt: skip


def first_samples(data: Data, count: int) -> tuple[np.ndarray, Any]:
    """Return so many samples of the first batches, with their labels."""
    size: int = data.batch_size if hasattr(data, "batch_size") else len(data(0)["image"])  # type: ignore[attr-defined]
    made = [data(n) for n in range(math.ceil(count / size))]
    joined = jax.tree.map(lambda *x: np.concatenate(x)[:count], *made)
    return joined["image"], joined.get("label")


def distance(samples: np.ndarray, images: np.ndarray) -> float:
    """Return the sliced Wasserstein distance of two sets, in their own numbers."""
    x, y = (np.asarray(of, np.float64).reshape(len(of), -1) for of in (samples, images))
    return float(sliced_wasserstein(x, y))


def sheet(images: np.ndarray, columns: int = 10) -> np.ndarray:
    """Return images (n, h, w, c) in [-1, 1] row by row as one picture (height, width, 3), uint8,
    small ones enlarged by a whole factor to sides of about 32.
    """
    from jaxdiff.report.images import apart, as_pixels

    tiles = as_pixels(apart(images), "samples")[..., :3]
    factor = max(1, 32 // max(tiles.shape[1:3]))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    rows = math.ceil(len(tiles) / columns)
    _, height, width, _ = tiles.shape
    gap = max(1, min(height, width) // 16)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        page[top : top + height, left : left + width] = tile
    return page


def watching(*watches: tuple[Callable[..., bool] | None, int | None], last: int) -> dict[str, Any]:
    """Return options of :func:`jaxdiff.training.loop.fit` with which several functions watch a run,
    each with its period, all after the last update.
    """
    known = [(watch, every) for watch, every in watches if watch is not None and every is not None]
    if not known:
        return {}

    def watch(*given: Any) -> bool:
        step = given[-2]
        due = [f for f, every in known if step % every == 0 or step == last]
        return any([f(*given) for f in due])

    return {"watch": watch, "watch_every": math.gcd(*(every for _, every in known))}
