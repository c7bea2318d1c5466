"""Measurements of ``jaxdiff analyse``, a function a part; each returns plain numbers for JSON."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import analysis, solvers
from jaxdiff.app.subjects import Data, Subject
from jaxdiff.distance import norm
from jaxdiff.exact import Empirical
from jaxdiff.metrics.frechet import frechet_distance
from jaxdiff.metrics.kernel import mmd2
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.sampling.sample import Trajectory, trajectory
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array

METRICS: dict[str, Callable[..., float]] = {
    "sliced Wasserstein": sliced_wasserstein, "Frechet distance": frechet_distance, "MMD^2": mmd2,
}  # fmt: skip
MODEL, GAUSSIAN, FINITE = "model", "Gaussian", "finite data set"
COMPARED = 1000  # data that states are compared with
COMPONENTS = 10
BENT = 8  # trajectories whose curvature is taken
ROUNDED = 0.1  # of the curvature at most may be rounding
DRAWN = 30  # paths of the three-dimensional picture
DENSE = 0.1


class Followed(NamedTuple):
    """Trajectories by Euler's method, and the denoised output at every state."""

    path: Trajectory
    denoised: Array

    @property
    def end(self) -> Array:
        """Return the last states (batch, *shape)."""
        return self.path.states[-1]


class Study(NamedTuple):
    """The data of a measurement.

    subjects: by name, the model among them. noise: (count, *shape), standard normal. levels:
    (M + 1,), the positive levels of Euler's grid. paths: by name, of all subjects.
    """

    subjects: Mapping[str, Subject]
    noise: Array
    levels: np.ndarray
    data: Data
    paths: Mapping[str, Followed]


def euler_path(subject: Subject, levels: np.ndarray, noise: Array) -> Followed:
    """Return a subject's trajectories from noise (batch, *shape) at the first of the levels."""
    start = jnp.asarray(levels[0], noise.dtype) * noise
    path = trajectory(subject.denoiser, table(solvers.euler, levels), start, subject.cond)
    last = Trajectory(path.states[-1:], path.levels[-1:], path.denoised[-1:], path.levels[-1:])
    last = analysis.denoising_trajectory(subject.denoiser, last, subject.cond)
    return Followed(path, jnp.concatenate([path.denoised, last]))


def over_levels(levels: Any, values: Any) -> dict[str, list[float]]:
    """Return the mean and standard deviation of values (levels, batch) over the batch."""
    numbers = np.asarray(values, np.float64)
    return {
        "levels": np.asarray(levels, np.float64).tolist(),
        "mean": numbers.mean(axis=1).tolist(), "std": numbers.std(axis=1).tolist(),
    }  # fmt: skip


def statistics(followed: Followed) -> dict[str, Any]:
    """Return what one model's trajectories are like: statistics over the levels, their components,
    and what each is in one number.
    """
    made = jax.device_get(_measured(followed))
    levels = np.asarray(followed.path.levels, np.float64)
    found: dict[str, Any] = {
        name: over_levels(levels[: len(values)], values) for name, values in made.profiles.items()
    }
    found |= {
        "share": {
            "per sample": made.per_sample.mean(axis=0).tolist(), "pooled": made.pooled.tolist(),
        },
        "reconstruction error": made.lost.mean(axis=(1, 2)).tolist(),
        "boomerang": made.boomerang[:, :DRAWN].tolist(),
    }  # fmt: skip
    return found | {"summary": _summary(found, made, levels)}


def bends(subject: Subject, path: Trajectory, torsion: bool = True) -> dict[str, Any]:
    """Return the exact curvature and torsion of a subject's flow at states of its trajectories, of
    the first ``BENT``, at the levels at which they are more than rounding: of a straight line at
    none.
    """
    states, levels = path.states[:, :BENT], np.asarray(path.levels)
    cond = None if subject.cond is None else subject.cond[:BENT]
    found, error = _frenet(subject.denoiser, states, path.levels, cond, 3 if torsion else 2)
    rows = np.flatnonzero(np.asarray(error).mean(axis=1) <= ROUNDED)
    pairs = zip(("curvature", "torsion") if torsion else ("curvature",), found, strict=False)
    return {
        name: over_levels(levels[rows], np.asarray(values)[rows])
        for name, values in pairs
        if len(rows)
    }


@functools.partial(jax.jit, static_argnums=4)
def _frenet(
    D: Any, states: Array, levels: Array, cond: Any, order: int
) -> tuple[analysis.Frenet, Array]:
    """Return curvature and torsion, 0 of order 2, and the curvature's relative rounding error: x -
    D is rounded as x is, which turns x' = (x - D)/s, and the part of x'' along x' seems to bend.
    """

    def one(pair: tuple[Array, Array]) -> tuple[analysis.Frenet, Array]:
        x, level = pair
        made = analysis.flow_derivatives(D, x, level, cond, order=order)
        first, second, third = made if order == 3 else (*made, jnp.zeros_like(x))
        found = analysis.curvatures(first, second, third)
        turned = jnp.finfo(x.dtype).eps * norm(x) / (level * norm(first))
        return found, turned * norm(second) / (found.curvature * norm(first) ** 2)

    return jax.lax.map(one, (states, levels))


class _Made(NamedTuple):
    """Statistics of a path: profiles (points, batch) by name, shares of components, and lengths."""

    profiles: dict[str, Array]
    per_sample: Array
    pooled: Array
    lost: Array
    boomerang: Array
    chord: Array
    length: Array
    first_raw: Array
    residual: Array


@jax.jit
def _measured(followed: Followed) -> _Made:
    (x, levels, *_), D = followed
    eps, sizes = analysis.eps_of(x, D, levels), analysis.norms(x, D, levels)
    rest = analysis.chord_complement(x)
    count = min(COMPONENTS, x[0, 0].size, x.shape[0] * x.shape[1])
    pooled = analysis.principal_components(rest.reshape(-1, x[0, 0].size), count)
    profiles = {
        "deviation": analysis.deviation(x), "denoised deviation": analysis.deviation(D),
        "norm of x": sizes.states, "norm of D": sizes.denoised, "norm of eps": sizes.eps,
        "cosine": analysis.chord_cosine(x, eps), "distance to end": analysis.distance_to_end(x),
        "denoised distance to end": analysis.distance_to_end(D),
    }  # fmt: skip
    return _Made(
        profiles, analysis.shares_per_sample(x, complement=True)[:, :COMPONENTS], pooled.shares,
        analysis.reconstruction_error(rest, pooled), analysis.boomerang(x),
        analysis.chord_length(x), analysis.path_length(x), analysis.shares_per_sample(x)[:, 0],
        analysis.regularity(x).residual,
    )  # fmt: skip


def _summary(found: dict[str, Any], made: _Made, levels: np.ndarray) -> dict[str, float]:
    """Return the quantities of the table, each a mean over trajectories."""

    def peak(name: str) -> tuple[float, float, float]:
        at = int(np.argmax(found[name]["mean"]))
        return found[name]["mean"][at], found[name]["std"][at], float(levels[at])

    (bend, spread, place), (own, _, own_place) = peak("deviation"), peak("denoised deviation")
    mean = {name: one["mean"] for name, one in found.items() if "mean" in one}
    sizes, apart = made.profiles["norm of D"], made.profiles["distance to end"]
    return {
        "peak deviation of x": bend, "+- over paths": spread, "at level": place,
        "peak deviation / chord": float(bend / made.chord.mean()),
        "peak deviation of D": own, "at level (D)": own_place,
        "|D| first": mean["norm of D"][0], "|D| last": mean["norm of D"][-1],
        "|x - end| first": mean["distance to end"][0],
        "|D - last D| first": mean["denoised distance to end"][0],
        "|eps| first": mean["norm of eps"][0], "|eps| last": mean["norm of eps"][-1],
        "least cos(eps, x - end)": float(np.min(mean["cosine"])),
        "shape left when turned onto the mean": float(made.residual.mean()),
        "path / chord": float((made.length / made.chord).mean()),
        "first component of a path": float(made.first_raw.mean()),
        "top 2 of a path's rest": float(made.per_sample[:, :2].sum(axis=1).mean()),
        "top 2 of all paths' rest": float(made.pooled[:2].sum()),
        "share of steps with |D| rising": float(np.mean(np.diff(sizes, axis=0) > 0)),
        "share of steps with |x - end| falling": float(np.mean(np.diff(apart, axis=0) < 0)),
    }  # fmt: skip


def optimal(study: Study) -> dict[str, Any]:
    """Return how far every subject is from the optimal denoiser of the finite data set, on its own
    path and on the optimal one, and how many of the data that one averages.
    """
    best, ideal = study.subjects[FINITE].denoiser, study.paths[FINITE]
    models = {}
    for name, one in study.subjects.items():
        own = study.paths[name]
        if name == FINITE:
            continue
        there = analysis.denoising_trajectory(best, own.path)
        back = analysis.denoising_trajectory(one.denoiser, ideal.path, one.cond)
        pairs = {
            "on the model's path": _apart(own.denoised, there),
            "on the optimal path": _apart(back, ideal.denoised),
            "of both": _apart(own.denoised, ideal.denoised),
            "states": _apart(own.path.states, ideal.path.states),
        }
        models[name] = {key: np.mean(np.asarray(a), axis=1).tolist() for key, a in pairs.items()}
    data = analysis.finite_data_set(study.data.values)
    for name, own in study.paths.items():
        models.setdefault(name, {})["density rises"] = density_rises(data, own)
    neighbours = np.asarray(analysis.effective_neighbours(data, ideal.path)).mean(axis=1)
    return {
        "levels": study.levels.tolist(), "models": models,
        "effective neighbours": neighbours.tolist(),
    }  # fmt: skip


def density_rises(data: Empirical, followed: Followed) -> dict[str, float]:
    """Return for which share of states the kernel density of the data, of the state's level as its
    bandwidth, is higher at the denoised output and at the next state (annealed mean shift); and the
    largest ratio over levels of |D - D*| to |D* - x| in the mean, below 1 of which the first must
    hold. Of levels from ``DENSE`` on, or of the first one alone where all are below: there single
    precision has no digits of the density left.
    """
    (x, levels, *_), outputs = followed.path, followed.denoised
    rows = np.flatnonzero(np.asarray(levels[:-1]) >= min(DENSE, float(levels[0])))
    jump = analysis.mean_shift(data, x[rows], outputs[rows], levels[rows])
    step = analysis.mean_shift(data, x[rows], x[rows + 1], levels[rows])
    error, distance = (np.asarray(a).mean(axis=1) for a in (jump.error, jump.distance))
    return {
        "jump": float(np.mean(np.asarray(jump.gain) >= 0)),
        "step": float(np.mean(np.asarray(step.gain) >= 0)),
        "ratio": float(np.max(error / np.maximum(distance, 1e-30))),
    }


def _apart(a: Array, b: Array) -> Array:
    return jax.vmap(lambda x, y: norm(x - y))(a, b)


def convergence(study: Study, metric: str, seed: int = 0) -> dict[str, Any]:
    """Return how far the states and the denoised outputs of every level are from data."""
    rng = np.random.default_rng(seed)
    count = study.noise.shape[0]
    order = rng.permutation(len(study.data.values))
    values = _flat(study.data.values[order[: COMPARED + count]])
    others, rows = np.split(values, [min(count, len(values) // 2)])
    compare, models = METRICS[metric], {}
    for name, path in study.paths.items():
        models[name] = {
            "levels": study.levels.tolist(),
            "x": [compare(_flat(states), rows) for states in path.path.states],
            "D": [compare(_flat(outputs), rows) for outputs in path.denoised],
        }
    return {
        "metric": metric, "samples": count, "real": len(rows), "models": models,
        "real data": compare(others, rows),
    }  # fmt: skip


def _flat(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64).reshape(len(a), -1)
