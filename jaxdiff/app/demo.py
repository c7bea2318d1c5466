"""The main job on real images, end to end.

Train a class-conditional score network on scikit-learn's handwritten digits, sample it with every
solver at several numbers of network evaluations (NFE), distil it into a student that needs one or
two, score everything against digits that neither saw, and write one HTML report.
"""

import platform
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.distill import distill, history
from jaxdiff.app.evaluator import Evaluator, make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.app.samplers import student_sampler
from jaxdiff.app.train import train
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.digits import load_digits
from jaxdiff.metrics.neighbours import Nearest, nearest_distances
from jaxdiff.metrics.protocol import Score
from jaxdiff.noise import start_noise
from jaxdiff.recipes import RECIPES
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table, pad
from jaxdiff.sampling.trace import table

QUALITY = "Frechet distance"
SWEEP = sorted((k for k in solvers.SOLVERS if k.demo is not None), key=lambda k: k.evaluations)
LOG_SNR = ("dpmpp", "unipc", "sde_dpmpp")


def steps_for(evaluations: int, nfe: int) -> int | None:
    """Steps, of so many evaluations each and one in the last, that make ``nfe`` evaluations on a
    grid ending in zero; None if no number does.
    """
    before, rest = divmod(nfe - 1, evaluations)
    return None if rest else before + 1


def sweep_tables(nfes: tuple[int, ...]) -> list[tuple[str, int, Table]]:
    """Return the listed solvers at every number of evaluations, each on the grid its paper
    recommends.
    """
    made = []
    for known in SWEEP:
        grid = grids.log_snr if known.name in LOG_SNR else grids.karras
        for nfe in nfes:
            num_steps = steps_for(known.evaluations, nfe)
            if num_steps is not None:
                one = table(known.solver, grid(num_steps), **(known.demo or {}))
                made.append((known.name, nfe, one))
    return made


def sweep(
    model: Model, config: configs.Demo, evaluator: Evaluator, labels: np.ndarray
) -> list[dict[str, Any]]:
    """Score and time every solver at every number of evaluations; a few programs run them all."""
    entries = sweep_tables(config.nfe)
    padded = pad([t for _, _, t in entries])
    shapes, rows = set(), []
    bar = tqdm(list(zip(entries, padded, strict=True)), desc="every solver", unit="run")
    for (name, nfe, made), runner in bar:
        bar.set_postfix_str(f"{name} nfe {nfe}")
        assert made.nfe == nfe
        sampler = Sampler(model.denoiser, runner)
        start = float(made.levels[0])
        kind = (runner.states.shape, runner.slots)
        if kind not in shapes:  # compile before the clock starts
            shapes.add(kind)
            draw(sampler, start, model, labels, config.seed)
        began = time.perf_counter()
        images = draw(sampler, start, model, labels, config.seed)
        seconds = time.perf_counter() - began
        scores = {
            k: score.value for k, score in measure(evaluator, images, labels, (QUALITY,)).items()
        }
        rows.append(
            {"solver": name, "nfe": nfe, "seconds_per_image": seconds / len(images), **scores}
        )
    return rows


def draw(sampler: Sampler, start: float, model: Model, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return one batch of samples from a padded table, which does not know its own levels."""
    assert isinstance(sampler.table, Table)
    key = jax.random.key(seed)
    x = start * start_noise(key, len(labels), model.shape)
    out = sample(sampler.denoiser, sampler.table, x, jnp.asarray(labels, jnp.int32), key=key)
    return np.clip(np.asarray(out), -1.0, 1.0)


def demo(config: configs.Demo) -> str:
    """Run the demo: print its numbers and save them, make the report; return where it is.

    Raises ValueError for a method whose student does not sample in the one evaluation it is scored
    in.
    """
    from jaxdiff.report.demo import demo_page, in_words
    from jaxdiff.report.page import write_numbers

    if (fewest := RECIPES[config.method].fewest) > 1:
        raise ValueError(
            f"the demo scores its student in 1 evaluation; one by {config.method} takes at least "
            f"{fewest}: choose another --method"
        )
    out = Path(config.out)
    if config.fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    train_set, held_out = load_digits("train"), load_digits("test")
    print(f"data {train_set.describe()}\nset aside {held_out.describe()}", flush=True)
    print("training the classifier whose features are the evaluator", flush=True)
    evaluator = make_evaluator(train_set, held_out, "classifier", config.seed)
    labels = evaluator.labels(config.count)
    assert labels is not None
    clock.lap("evaluator")

    print("training the teacher", flush=True)
    folders = {name: str(out / name) for name in ("teacher", "student")}
    teacher = train(
        configs.Train(
            run=folders["teacher"],
            network=configs.UNet(channels=24),
            updates=config.train_updates,
            seed=config.seed,
        )
    )
    clock.lap("teacher")
    rows = sweep(teacher, config, evaluator, labels)
    clock.lap("every solver")

    print("distilling", flush=True)
    student = distill(
        configs.Distill(
            folders["teacher"],
            folders["student"],
            config.method,
            config.distill_updates,
            seed=config.seed,
        )
    )
    clock.lap("student")

    samples, scores = compare(teacher, student, config, evaluator, labels)
    distances = copies(samples, train_set.images, held_out.images)
    clock.lap("scores")
    numbers = {
        "config": config_file.to_dict(config),
        "machine": {
            "jax": jax.__version__,
            "device": str(jax.devices()[0]),
            "platform": platform.platform(),
        },
        "classifier accuracy on held-out digits": evaluator.accuracy,
        "student": gap({name: each[QUALITY].value for name, each in scores.items()}),
        "scores": {
            name: {k: s.to_dict() for k, s in each.items()} for name, each in scores.items()
        },
        "copies": {
            name: {"median": float(np.median(d.distance)), "smallest": float(np.min(d.distance))}
            for name, d in distances.items()
        },
        "seconds": clock.laps,
        "sweep": rows,
    }
    print(in_words(numbers), flush=True)
    beside = write_numbers(out / "report.json", numbers)
    try:
        shown = pictures(teacher, train_set, samples, labels, distances, folders)
        return f"report: {demo_page(out, numbers, shown).resolve()}"
    except Exception as error:  # of whatever draws it
        warnings.warn(f"the page could not be made: {error}", stacklevel=2)
        return f"numbers: {beside}"


class Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now


def gap(quality: dict[str, float]) -> dict[str, float]:
    """Return how much of the way from one Euler step to the teacher the student covers in one
    evaluation.
    """
    teacher, euler = quality["teacher, NFE 35"], quality["Euler, NFE 1"]
    one = quality["student, NFE 1"]
    two = "student, NFE 2"
    return {
        "teacher": teacher,
        "student at 1": one,
        **({"student at 2": quality[two]} if two in quality else {}),
        "Euler at 1": euler,
        "share of the gap closed at 1": (euler - one) / (euler - teacher),
    }


def compare(
    teacher: Model, student: Model, config: configs.Demo, evaluator: Evaluator, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Score]]]:
    """Teacher at many evaluations and at one, student at one and, if its method can, at two:
    samples and all scores.
    """
    few = [n for n in (2, 1) if str(n) in student.metadata["samplers"]]
    samplers = {
        "teacher, NFE 35": Sampler(teacher.denoiser, table(solvers.heun, grids.karras(18))),
        **{f"student, NFE {n}": student_sampler(student, n) for n in few},
        "Euler, NFE 1": Sampler(teacher.denoiser, table(solvers.euler, grids.karras(1))),
    }
    samples = {
        name: generate(
            s, config.count, teacher.shape, labels, batch=config.count, seed=config.seed, title=name
        )
        for name, s in samplers.items()
    }
    return samples, {name: measure(evaluator, images, labels) for name, images in samples.items()}


def copies(
    samples: dict[str, np.ndarray], train: np.ndarray, held_out: np.ndarray
) -> dict[str, Nearest]:
    """Distances to the nearest training image, of samples and, last, of real images that were set
    aside.
    """
    return {
        name: nearest_distances(x, train)
        for name, x in [*samples.items(), ("held-out digits", held_out)]
    }


def in_turn(labels: np.ndarray) -> np.ndarray:
    """Return where to find images of classes 0, 1, ..., 9 in turn."""
    each = [np.flatnonzero(labels == k) for k in range(10)]
    return np.stack([own[: min(map(len, each))] for own in each], axis=1).ravel()


def pictures(
    teacher: Model,
    train_set: Dataset,
    samples: dict[str, np.ndarray],
    labels: np.ndarray,
    distances: dict[str, Nearest],
    folders: dict[str, str],
) -> Any:
    """Return what the report shows."""
    from jaxdiff.report.demo import Shown

    made = table(solvers.euler, grids.karras(18))
    start = float(made.levels[0]) * start_noise(jax.random.key(7), 4, teacher.shape)
    path = trajectory(teacher.denoiser, made, start, jnp.array([3, 5, 8, 9], jnp.int32))
    assert train_set.labels is not None
    by_class = in_turn(train_set.labels)
    losses = {
        name: [(line["step"], line["student/loss"]) for line in history(folders[name])]
        for name in ("teacher", "student")
    }
    best = samples["teacher, NFE 35"]
    near = distances["teacher, NFE 35"]
    closest = np.argsort(near.distance)
    return Shown(
        real=train_set.images[by_class],
        samples={name: images[in_turn(labels)] for name, images in samples.items()},
        states=np.asarray(path.states),
        denoised=np.asarray(path.denoised),
        levels=np.asarray(path.levels),
        nodes=np.asarray(path.nodes),
        losses=losses,
        nearest=(best[closest[:12]], train_set.images[near.index[closest[:12]]]),
        distances=near.distance[closest],
        held_out=distances["held-out digits"].distance,
    )
