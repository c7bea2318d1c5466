"""The main job on real images, end to end.

Train a class-conditional score network on scikit-learn's handwritten digits, sample it with every
solver at several numbers of network evaluations (NFE), distil it into a student that needs one or
two, score everything against digits that neither saw, and write one HTML report.
"""

import dataclasses
import datetime
import platform
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.distill import distill, history
from jaxdiff.app.evaluator import make_evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, given, refuse
from jaxdiff.app.samplers import student_sampler
from jaxdiff.app.sweep import sweep
from jaxdiff.app.train import train
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.digits import load_digits
from jaxdiff.metrics.neighbours import Nearest, nearest_distances
from jaxdiff.networks import count_parameters
from jaxdiff.noise import start_noise
from jaxdiff.recipes import RECIPES
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table

QUALITY = "Frechet distance"
OF_QUICK = ("euler", "ipndm", "deis", "dpmpp", "heun")  # which one program runs
BY_DEFAULT = {  # updates of the student, numbers of evaluations
    False: (1500, (3, 5, 7, 11, 35)),
    True: (200, (3, 5, 9)),
}


def demo(config: configs.Demo) -> str:
    """Run the demo: print its numbers and save them, make the report; return where it is.

    Raises ValueError for a method whose student does not sample in the one evaluation it is scored
    in.
    """
    from jaxdiff.report.demo import demo_page, in_words
    from jaxdiff.report.page import write_numbers

    check(config)
    if (fewest := RECIPES[config.method].fewest) > 1:
        raise ValueError(
            f"the demo scores its student in 1 evaluation; one by {config.method} takes at least "
            f"{fewest}: choose another --method"
        )
    options = resolved(config)
    assert options.nfe is not None and options.distill_updates is not None
    out = Path(options.out)
    if options.fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    train_set, held_out = load_digits("train"), load_digits("test")
    print(f"data {train_set.describe()}\nset aside {held_out.describe()}", flush=True)
    print("training the classifier whose features are the evaluator", flush=True)
    evaluator = make_evaluator(train_set, held_out, "classifier", options.seed)
    labels = evaluator.labels(options.count)
    assert labels is not None
    clock.lap("evaluator")

    teacher, folder = the_teacher(options, out)
    clock.lap("teacher")
    only = OF_QUICK if options.quick else ()
    rows, samples = sweep(
        teacher, evaluator, labels, options.nfe, options.seed, only, teacher_tables()
    )
    clock.lap("every solver")

    print("distilling", flush=True)
    folders = {"teacher": folder, "student": str(out / "student")}
    student = distill(
        configs.Distill(
            folders["teacher"],
            folders["student"],
            options.method,
            options.distill_updates,
            seed=options.seed,
        )
    )
    clock.lap("student")

    best, euler = samples.items()
    samples = dict([best, *student_samples(student, options, labels).items(), euler])
    scores = {name: measure(evaluator, images, labels) for name, images in samples.items()}
    distances = copies(samples, train_set.images, held_out.images)
    clock.lap("scores")
    numbers = {
        "config": config_file.to_dict(options),
        "experiment": experiment(teacher, config, options),
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
        "processor seconds": clock.processor,
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


def resolved(config: configs.Demo) -> configs.Demo:
    """Return a configuration with the numbers that depend on --quick.

    Raises ValueError for an option that --quick leaves without effect.
    """
    if config.quick:
        refuse(config, "--quick trains no teacher", "train_updates")
    updates, nfe = BY_DEFAULT[config.quick]
    return dataclasses.replace(
        config,
        distill_updates=config.distill_updates or updates,
        nfe=config.nfe if config.nfe is not None else nfe,
    )


def the_teacher(config: configs.Demo, out: Path) -> tuple[Model, str]:
    """Return the teacher and where it is: trained now, or the one that comes with the package."""
    if config.quick:
        print("the teacher comes with the package: digits", flush=True)
        return load_model("digits"), "digits"
    print("training the teacher", flush=True)
    folder = str(out / "teacher")
    network = configs.UNet(channels=24)
    options = configs.Train(
        run=folder, network=network, updates=config.train_updates, seed=config.seed
    )
    return train(options), folder


def experiment(teacher: Model, asked: configs.Demo, config: configs.Demo) -> dict[str, Any]:
    """Return what was done, for the page: command, version, date, network, updates, method."""
    names = [f.name for f in dataclasses.fields(asked) if given(asked, f.name)]
    options = [f"--{n.replace('_', '-')} {_typed(getattr(asked, n))}".rstrip() for n in names]
    source: Any = teacher.source
    updates = teacher.metadata.get("updates") or (source and source.metadata["updates"])
    return {
        "command": " ".join(["jaxdiff demo", *options]),
        "version": jaxdiff.__version__,
        "date": datetime.date.today().isoformat(),
        "network": type(teacher.module).__name__,
        "parameters": count_parameters(teacher.params),
        "teacher": "comes with the package" if config.quick else "trained by this command",
        "teacher updates": updates,
        "teacher's sampler": "heun, 18 steps of karras's grid, 35 evaluations",
        "method": config.method,
        "student updates": config.distill_updates,
    }


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line, nothing for a flag."""
    if value is True:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Clock:
    """Seconds since the last lap, by name: of the clock, and of all processors together."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.last = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter(), time.process_time()
        self.laps[name], self.processor[name] = (b - a for a, b in zip(self.last, now, strict=True))
        self.last = now


def gap(quality: dict[str, float]) -> dict[str, float | None]:
    """Return how much of the way from one Euler step to the teacher the student covers in one
    evaluation; None where a teacher of few updates is no better than one step.
    """
    teacher, euler = quality["teacher, NFE 35"], quality["Euler, NFE 1"]
    one = quality["student, NFE 1"]
    two = "student, NFE 2"
    return {
        "teacher": teacher,
        "student at 1": one,
        **({"student at 2": quality[two]} if two in quality else {}),
        "Euler at 1": euler,
        "share of the gap closed at 1": (
            (euler - one) / (euler - teacher) if teacher < euler else None
        ),
    }


def teacher_tables() -> dict[str, Table]:
    """Return how the teacher is sampled beside its student: in many evaluations and in one."""
    return {
        "teacher, NFE 35": table(solvers.heun, grids.karras(18)),
        "Euler, NFE 1": table(solvers.euler, grids.karras(1)),
    }


def student_samples(
    student: Model, config: configs.Demo, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Return samples of a student at one evaluation and, if its method can, at two."""
    few = [n for n in (2, 1) if str(n) in student.metadata["samplers"]]
    return {
        f"student, NFE {n}": generate(
            student_sampler(student, n), config.count, student.shape, labels, batch=config.count,
            seed=config.seed, title=f"student, NFE {n}",
        )
        for n in few
    }  # fmt: skip


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
        name: [(line["step"], line["student/loss"]) for line in history(folder)]
        for name, folder in folders.items()
        if Path(folder).is_dir()
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
