"""The closed forms of a data set, with no network: its Gaussian, by Euler and exactly, and the data
themselves, from the same noises.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import analysis, grids
from jaxdiff.app.geometry import (
    Followed,
    Study,
    bends,
    convergence,
    density_rises,
    euler_path,
    statistics,
)
from jaxdiff.app.subjects import Data, Subject
from jaxdiff.data.dataset import to_float
from jaxdiff.data.readers import load
from jaxdiff.distance import norm
from jaxdiff.exact import Empirical, Gaussian
from jaxdiff.metrics.neighbours import nearest_distances
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import Trajectory
from jaxdiff.typing import Array

STEPS, HIGH, LOW = 20, 80.0, 0.002
PUBLISHED_GITS = (0, 19, 27, 33, 39, 45, 60)  # its levels for CIFAR-10, as indices of 61
DISCOUNTS = (1.0, 1.05, 1.1, 1.15)
COUNTS = (1, 4, 16, 256)  # trajectories that GITS is given
METRIC = "sliced Wasserstein"
GAUSSIAN, EXACT, FINITE = "Gaussian", "Gaussian, exact", "finite data set"
FLOOR = 1e-9  # of the mean variance: far below the lowest level squared
FEW = 16  # trajectories of which densities and neighbours are taken
OF_TRACES, OF_LIPSCHITZ = 8, 4  # and traces, and Lipschitz constants
PLACES = (12.4, 5.8, 2.5, 0.97)  # levels at which Jacobians are taken


def read(path: str) -> np.ndarray:
    """Return images as points (n, d) in [-1, 1], float32."""
    data = load(path, progress=False)
    return to_float(data.images).reshape(len(data), -1)


def gaussian(points: np.ndarray) -> tuple[Gaussian, dict[str, Any]]:
    """Return the Gaussian with the points' mean and covariance, and what is known of it."""
    made = analysis.gaussian_of(points, floor=FLOOR)
    assert isinstance(made, Gaussian)  # of no rank
    spectrum = np.sort(np.asarray(made.variances, np.float64))[::-1]
    ranks = np.arange(10, min(1000, len(spectrum)) + 1)
    slope = np.polyfit(np.log(ranks), np.log(spectrum[ranks - 1]), 1)[0] if len(ranks) > 1 else None
    return made, {
        "points": len(points), "dimension": points.shape[1],
        "variance per number": float(spectrum.mean()), "|mean|": float(jnp.linalg.norm(made.mean)),
        "mean |y|": float(np.linalg.norm(points, axis=1).mean()),
        "eigenvalues": spectrum[:5].tolist(), "slope of ranks 10 to 1000": slope,
    }  # fmt: skip


def exact_path(model: Gaussian, levels: np.ndarray, noise: Array) -> Followed:
    """Return the exact trajectories of a Gaussian, and the denoised output at every state."""
    path = analysis.flow_trajectory(model, levels, jnp.asarray(levels[0], noise.dtype) * noise)
    return Followed(path, analysis.denoising_trajectory(model.denoiser, path))


def measured(path: str, count: int, seed: int) -> dict[str, Any]:
    """Return the numbers of all closed forms of the images in a file."""
    points = read(path)
    model, known = gaussian(points)
    model = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), model)
    finite = Empirical(points)
    levels = grids.karras(STEPS, LOW, HIGH, zero=False)
    noise = start_noise(jax.random.key(seed), count, points.shape[1:])
    paths = {
        GAUSSIAN: euler_path(Subject(model.denoiser), levels, noise),
        EXACT: exact_path(model, levels, noise),
        FINITE: euler_path(Subject(finite.denoiser), levels, noise),
    }
    found = {name: statistics(one) for name, one in paths.items()}
    subjects = {GAUSSIAN: Subject(model.denoiser), FINITE: Subject(finite.denoiser)}
    for name, one in subjects.items():
        found[name] |= bends(one, paths[name].path, torsion=name != FINITE)
    study = Study(subjects, noise, levels, Data(points, None, None, path), paths)
    for one in found.values():
        del one["boomerang"]  # many numbers, which no table has
    return {
        "data": known, "levels": levels.tolist(), "count": count,
        "paths": found,
        "optimal": against_optimal(model, finite, paths),
        "likelihood": {
            name: density_rises(finite, _few(paths[name])) for name in (GAUSSIAN, FINITE)
        },
        "convergence": convergence(study, METRIC, seed),
        "nearest": {
            name: float(np.median(nearest_distances(np.asarray(paths[name].end), points).distance))
            for name in (GAUSSIAN, FINITE)
        },
        "traces": traces(model, finite, paths[FINITE].path),
        "lipschitz": lipschitz(model, finite, paths[FINITE].path, seed),
        "interpolation": {
            GAUSSIAN: interpolation(lambda z: model.flow(HIGH * z, HIGH, LOW), model, noise),
            FINITE: interpolation(
                lambda z: euler_path(Subject(finite.denoiser), levels, z).end, model, noise
            ),
        },
        "gits": gits(model, start_noise(jax.random.key(seed), max(COUNTS), points.shape[1:])),
    }  # fmt: skip


def against_optimal(
    model: Gaussian, finite: Empirical, paths: dict[str, Followed]
) -> dict[str, list[float]]:
    """Return the distances of the Gaussian's denoised outputs and states from the optimal ones, and
    the effective number of neighbours, at every level.
    """
    own, best = paths[GAUSSIAN], paths[FINITE]
    there = analysis.denoising_trajectory(finite.denoiser, own.path)
    back = analysis.denoising_trajectory(model.denoiser, best.path)
    apart = jax.vmap(lambda a, b: norm(a - b))
    profiles = {
        "states": apart(own.path.states, best.path.states),
        "of both": apart(own.denoised, best.denoised),
        "on the optimal path": apart(back, best.denoised),
        "on the model's path": apart(own.denoised, there),
        "effective neighbours": analysis.effective_neighbours(finite, _few(best).path),
    }
    return {name: np.asarray(a).mean(axis=1).tolist() for name, a in profiles.items()}


def _few(followed: Followed) -> Followed:
    """Return some trajectories, for what is dear."""
    path, some = followed.path, slice(FEW)
    fewer = path._replace(states=path.states[:, some], denoised=path.denoised[:, some])
    return Followed(fewer, followed.denoised[:, some])


def traces(model: Gaussian, finite: Empirical, path: Trajectory) -> dict[str, list[float]]:
    """Return the trace of dD/dx of both denoisers on the optimal path, at four levels."""
    fine = Empirical(finite.data, chunk=256)
    rows = _rows(path)
    found: dict[str, list[float]] = {"levels": [float(path.levels[n]) for n in rows]}
    for name, one in ((GAUSSIAN, model), (FINITE, fine)):
        trace = jax.jit(type(one).divergence)
        found[name] = [
            float(jnp.mean(trace(one, path.states[n, :OF_TRACES], path.levels[n]))) for n in rows
        ]
    return found


def lipschitz(
    model: Gaussian, finite: Empirical, path: Trajectory, seed: int
) -> dict[str, list[float]]:
    """Return the local Lipschitz constant of both denoisers, the largest singular value of dD/dx,
    on the optimal path at four levels: of the Gaussian max l/(l + s^2), everywhere the same.
    """
    fine, rows, key = Empirical(finite.data, chunk=256), _rows(path), jax.random.key(seed)
    levels = [float(path.levels[n]) for n in rows]
    most = float(jnp.max(model.variances))
    values = [
        analysis.singular_values(
            fine.denoiser, path.states[n, :OF_LIPSCHITZ], path.levels[n], key=key, iterations=10
        )
        for n in rows
    ]
    return {
        "levels": levels,
        GAUSSIAN: [most / (most + s**2) for s in levels],
        FINITE: [float(jnp.mean(v)) for v in values],
    }


def _rows(path: Trajectory) -> list[int]:
    return [int(np.abs(np.asarray(path.levels) - s).argmin()) for s in PLACES]


def interpolation(
    ends: Callable[[Array], Array], model: Gaussian, noise: Array
) -> dict[str, dict[str, float]]:
    """Return |z|/sqrt(d) half-way between two noises and the distance of its end from the data's
    mean, over that of the ends of the first noises.
    """
    half = len(noise) // 2
    first, second = noise[:half], noise[half : 2 * half]
    away = lambda z: float(jnp.mean(norm(ends(z) - model.mean[None])))  # noqa: E731
    beside = away(first)
    return {
        name: {"norm": float(jnp.mean(norm(z)) / np.sqrt(z[0].size)), "end": away(z) / beside}
        for name, z in (
            ("linear", (first + second) / 2), ("square root", (first + second) / np.sqrt(2)),
        )
    }  # fmt: skip


def gits(model: Gaussian, noise: Array) -> dict[str, Any]:
    """Return the levels that GITS finds for 6 steps on exact trajectories of the Gaussian, as
    indices of 61 levels: by discount on all of them, and on a few with the last discount.
    """
    levels = grids.karras(60, LOW, HIGH, zero=False)
    path, denoised = exact_path(model, levels, noise)
    given = levels, path.states, denoised, 6
    found = {}
    for g in DISCOUNTS[:-1]:
        whole = analysis.searched_grids(*given, counts=[len(noise)], discount=g)
        found[f"{g:g}"] = whole.places[0].tolist()
    few = analysis.searched_grids(*given, counts=COUNTS, discount=DISCOUNTS[-1])
    found[f"{DISCOUNTS[-1]:g}"] = few.places[-1].tolist()
    return {
        "found": found, "published": list(PUBLISHED_GITS),
        "of a few": {str(n): row.tolist() for n, row in zip(few.counts, few.places, strict=True)},
    }  # fmt: skip
