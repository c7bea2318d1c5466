"""Students of the published model in one and two evaluations.

Both learn by regression from stored paths of the teacher (knowledge distillation, arXiv
2101.02388), which learns the most in some hundred updates. The paths are 16 steps of UniPC from
level 10, of which five states are kept.

The teacher predicts eps, x = y - s eps, so that at level 10 an error of its output is ten times as
large in the image.

    two evaluations    the network as it is, from every stored state to its path's end; sampled with
                       new noise between (consistency sampling)
    one evaluation     its last convolution is replaced by one that starts at 0 and predicts the
                       image in units of the data, D = c_skip y + c_out F (arXiv 2206.00364, table
                       1); from the start to the end only
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.mnist_ddpm.ends import START, Pairs, distance, kept_arrays
from jaxdiff import grids, solvers
from jaxdiff.app.models import Model
from jaxdiff.arrays import take
from jaxdiff.denoisers import description
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.knowledge import knowledge_distillation
from jaxdiff.process import Process
from jaxdiff.process import time as time_of
from jaxdiff.sampling.pairs import make_pairs, pair_batches
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import ramped
from jaxdiff.training.loop import fit
from jaxdiff.typing import Array

STEPS, KEPT = 16, (0, 4, 8, 12, 16)  # of the teacher's path, and the numbers of the states kept
LAST, HELD = "conv_out", 64  # the network's last layer; paths that students are compared on
RATES = {1: 1e-3, 2: 1e-4}


def label_of(process: Process, of_time: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a network's label as a function of the level."""
    return lambda level: of_time(time_of(process, level))


def paths(model: Model, count: int, folder: Path, seed: int) -> tuple[Pairs, np.ndarray]:
    """Return ``count`` stored paths of the teacher, and the levels of their states."""
    levels = np.asarray(grids.karras(STEPS, model.levels[0], START))
    teacher = Sampler(model.denoiser, table(solvers.unipc, levels, order=3))

    def make() -> Pairs:
        key = jax.random.key(seed)
        made = make_pairs(teacher, count, model.shape, key, path=True, batch=64, progress=False)
        return made | {"path": made["path"][:, list(KEPT)]}

    return kept_arrays(folder / "paths.npz", make), levels[list(KEPT)]


def student_of(model: Model, num_steps: int, num_updates: int, std: float) -> Student:
    """Return the student that is sampled in one or two evaluations, untrained."""
    made: Any = description(model.denoiser)
    rate = optax.cosine_decay_schedule(RATES[num_steps], num_updates, alpha=0.02)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    params, read = made["params"], {k: made[k] for k in ("prediction", "process", "label")}
    if num_steps == 1:
        params = {**params, LAST: jax.tree.map(jnp.zeros_like, params[LAST])}
        read = {"prediction": "edm", "label": label_of(made["process"], made["label"])}
    return Student(
        made["network"], params, sigma_data=std, low=model.levels[0], high=START,
        optimiser=optimiser, ema={"average": ramped(0.998, 0.5)}, **read,
    )  # fmt: skip


def distil(
    model: Model, stored: Pairs, levels: np.ndarray, num_steps: int, num_updates: int, batch: int,
    folder: Path,
) -> tuple[Sampler, float]:  # fmt: skip
    """Return a student's sampler in so many evaluations, and the distance of its outputs from level
    10 to the teacher's ends, of paths that it has not seen. A run in the folder goes on.
    """
    learnt, held = take(stored, slice(-HELD)), take(stored, slice(-HELD, None))
    student = student_of(model, num_steps, num_updates, float(stored["image"].std()))
    method = knowledge_distillation(student, levels=None if num_steps == 1 else levels)
    state = fit(
        method, pair_batches(learnt, batch, 0), num_updates=num_updates, key=0, progress=False,
        checkpoint=folder / f"student-{num_steps}", save_every=100,
    )  # fmt: skip
    sampler = functools.partial(method.sampler, state, ema="average")
    D: Any = jax.jit(sampler(num_steps=num_steps).denoiser)
    return sampler(num_steps=num_steps), distance(D(held["start"], START), held["image"])
