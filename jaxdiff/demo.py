"""The main job on real images, end to end.

Train a class-conditional score network on scikit-learn's handwritten digits, sample it with every
solver at several numbers of network evaluations (NFE), distil it into a student that needs one or
two, score everything against digits that neither saw, and write one HTML report.
"""

import platform
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxdiff import config as configs
from jaxdiff import grids, runs, solvers, students
from jaxdiff.data.dataset import Dataset
from jaxdiff.data.digits import load_digits
from jaxdiff.evaluation import Judge, make_judge, measure
from jaxdiff.metrics.neighbours import Nearest, nearest_distances
from jaxdiff.metrics.protocol import Score
from jaxdiff.sampling.sample import Sampler, sample, start_noise, trajectory
from jaxdiff.sampling.table import Table, pad
from jaxdiff.sampling.trace import table

QUALITY = "Frechet distance"
TWO_PER_STEP = (
    "heun", "dpm2", "churn", "dpm2_ancestral", "dpmpp_2s_ancestral", "sde_dpmpp_2s",
)  # fmt: skip
ONE_PER_STEP = (
    "euler", "lms", "ipndm", "ipndm_v", "deis", "dpmpp", "unipc", "ddim", "ddpm", "sde_dpmpp",
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "churn": {"amount": 10.0},
    "ddim": {"eta": 0.5},  # with eta 1 it is ddpm, with 0 euler
    "ipndm_v": {"reference": True},  # without it is lms
}
LOG_SNR = ("dpmpp", "unipc", "sde_dpmpp")


def steps_for(name: str, nfe: int) -> int | None:
    """Steps that make ``nfe`` evaluations on a grid ending in zero; None if no number does."""
    if name in TWO_PER_STEP:  # one in the last
        return (nfe + 1) // 2 if nfe % 2 else None
    return nfe


def sweep_tables(nfes: tuple[int, ...]) -> list[tuple[str, int, Table]]:
    """The usual solvers at every number of evaluations, each on the grid its paper recommends."""
    made = []
    for name in ONE_PER_STEP + TWO_PER_STEP:
        solver = runs.SOLVERS[name]
        grid = grids.log_snr if name in LOG_SNR else grids.karras
        for nfe in nfes:
            steps = steps_for(name, nfe)
            if steps is not None:
                made.append((name, nfe, table(solver, grid(steps), **OPTIONS.get(name, {}))))
    return made


def sweep(
    model: runs.Model, config: configs.Demo, judge: Judge, labels: np.ndarray
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
        scores = {k: score.value for k, score in measure(judge, images, labels, (QUALITY,)).items()}
        rows.append(
            {"solver": name, "nfe": nfe, "seconds_per_image": seconds / len(images), **scores}
        )
    return rows


def draw(
    sampler: Sampler, start: float, model: runs.Model, labels: np.ndarray, seed: int
) -> np.ndarray:
    """One batch of samples from a padded table, which does not know its own levels."""
    key = jax.random.key(seed)
    x = start * start_noise(key, len(labels), model.shape)
    out = sample(sampler.denoiser, sampler.table, x, jnp.asarray(labels, jnp.int32), key=key)
    return np.clip(np.asarray(out), -1.0, 1.0)


def demo(config: configs.Demo) -> str:
    """Run the demo; return what to print at its end."""
    from jaxdiff.report.demo import demo_page

    out = Path(config.out)
    if config.fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    train_set, held_out = load_digits("train"), load_digits("test")
    print(f"{len(train_set)} digits to train on, {len(held_out)} set aside", flush=True)
    print("training the classifier whose features are the judge", flush=True)
    judge = make_judge(train_set, held_out, "classifier", config.seed)
    labels = np.arange(config.count) % 10
    clock.lap("judge")

    print("training the teacher", flush=True)
    folders = {name: str(out / name) for name in ("teacher", "student")}
    teacher = runs.train(
        configs.Train(
            run=folders["teacher"],
            network=configs.UNet(channels=24),
            steps=config.train_steps,
            seed=config.seed,
        )
    )
    clock.lap("teacher")
    rows = sweep(teacher, config, judge, labels)
    clock.lap("every solver")

    print("distilling", flush=True)
    student = students.distill(
        configs.Distill(
            folders["teacher"],
            folders["student"],
            config.method,
            config.distill_steps,
            seed=config.seed,
        )
    )
    clock.lap("student")

    samples, scores = compare(teacher, student, config, judge, labels)
    distances = copies(samples, train_set.images, held_out.images)
    shown = pictures(teacher, train_set, samples, distances, folders)
    clock.lap("scores and pictures")
    numbers = {
        "config": configs.to_dict(config),
        "machine": {
            "jax": jax.__version__,
            "device": str(jax.devices()[0]),
            "platform": platform.platform(),
        },
        "classifier accuracy on held-out digits": judge.accuracy,
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
    return demo_page(out, numbers, shown)


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
    """How much of the way from one Euler step to the teacher the student covers in one
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
    teacher: runs.Model, student: runs.Model, config: configs.Demo, judge: Judge, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Score]]]:
    """Teacher at many evaluations and at one, student at one and, if its method can, at two:
    samples and all scores.
    """
    few = [n for n in (2, 1) if str(n) in student.about["samplers"]]
    samplers = {
        "teacher, NFE 35": Sampler(teacher.denoiser, table(solvers.heun, grids.karras(18))),
        **{f"student, NFE {n}": students.student_sampler(student, n) for n in few},
        "Euler, NFE 1": Sampler(teacher.denoiser, table(solvers.euler, grids.karras(1))),
    }
    samples = {
        name: runs.generate(
            s, config.count, teacher.shape, labels, batch=config.count, seed=config.seed, title=name
        )
        for name, s in samplers.items()
    }
    return samples, {name: measure(judge, images, labels) for name, images in samples.items()}


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


def pictures(
    teacher: runs.Model,
    train_set: Dataset,
    samples: dict[str, np.ndarray],
    distances: dict[str, Nearest],
    folders: dict[str, str],
) -> Any:
    """What the report shows."""
    from jaxdiff.report.demo import Shown

    made = table(solvers.euler, grids.karras(18))
    start = float(made.levels[0]) * start_noise(jax.random.key(7), 4, teacher.shape)
    path = trajectory(teacher.denoiser, made, start, jnp.array([3, 5, 8, 9], jnp.int32))
    assert train_set.labels is not None
    by_class = np.stack(
        [np.flatnonzero(train_set.labels == k)[:10] for k in range(10)], axis=1
    ).ravel()
    losses = {
        name: [(line["step"], line[f"{player}/loss"]) for line in students.history(folders[name])]
        for name, player in (("teacher", "model"), ("student", "student"))
    }
    best = samples["teacher, NFE 35"]
    near = distances["teacher, NFE 35"]
    closest = np.argsort(near.distance)
    return Shown(
        real=train_set.images[by_class],
        samples=samples,
        states=np.asarray(path.states),
        denoised=np.asarray(path.denoised),
        levels=np.asarray(path.levels),
        nodes=np.asarray(path.nodes),
        losses=losses,
        nearest=(best[closest[:12]], train_set.images[near.index[closest[:12]]]),
        distances=near.distance[closest],
        held_out=distances["held-out digits"].distance,
    )
