"""Every solver at several numbers of evaluations, scored and timed, by a few compiled programs."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxdiff import grids, solvers
from jaxdiff.app.evaluator import Evaluator, measure
from jaxdiff.app.models import Model
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import sample
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
    model: Model,
    evaluator: Evaluator,
    labels: np.ndarray,
    nfes: tuple[int, ...],
    seed: int = 0,
    only: tuple[str, ...] = (),
    also: Mapping[str, Table] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Score and time every solver at every number of evaluations; a few programs run them all.

    only: the names of some solvers, () for all of the demo's. also: further tables, which the same
    programs run. Returns the rows, and the samples of ``also`` by their names.
    """
    also = also or {}
    entries = [entry for entry in sweep_tables(nfes) if not only or entry[0] in only]
    padded = pad([*(t for _, _, t in entries), *also.values()])
    swept, runners = padded[: len(entries)], padded[len(entries) :]
    shapes, rows = set(), []
    bar = tqdm(list(zip(entries, swept, strict=True)), desc="every solver", unit="run")
    for (name, nfe, made), runner in bar:
        bar.set_postfix_str(f"{name} nfe {nfe}")
        assert made.nfe == nfe
        sampler = Sampler(model.denoiser, runner)
        start = float(made.levels[0])
        kind = (runner.states.shape, runner.slots)
        if kind not in shapes:  # compile before the clock starts
            shapes.add(kind)
            draw(sampler, start, model, labels, seed)
        began = time.perf_counter()
        images = draw(sampler, start, model, labels, seed)
        seconds = time.perf_counter() - began
        scores = {
            k: score.value for k, score in measure(evaluator, images, labels, (QUALITY,)).items()
        }
        rows.append(
            {"solver": name, "nfe": nfe, "seconds_per_image": seconds / len(images), **scores}
        )
    samples = {}
    for (name, made), runner in zip(also.items(), runners, strict=True):
        sampler = Sampler(model.denoiser, runner)
        samples[name] = draw(sampler, float(made.levels[0]), model, labels, seed)
    return rows, samples


def draw(sampler: Sampler, start: float, model: Model, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return one batch of samples from a padded table, which does not know its own levels."""
    assert isinstance(sampler.table, Table)
    key = jax.random.key(seed)
    x = start * start_noise(key, len(labels), model.shape)
    out = sample(sampler.denoiser, sampler.table, x, jnp.asarray(labels, jnp.int32), key=key)
    return np.clip(np.asarray(out), -1.0, 1.0)
