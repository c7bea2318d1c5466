"""Where trajectories end: between two noises, and how near to the data."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff import analysis
from jaxdiff.analysis.latent import Mode
from jaxdiff.app.geometry import COMPARED, FINITE, GAUSSIAN, MODEL, Study, euler_path
from jaxdiff.typing import Array

FRACTIONS = 9  # places from one noise to the other
MODES: tuple[Mode, ...] = ("spherical", "linear")
SHOWN = 4  # pairs
COPY = 1 / 3  # of the distance to the second
OTHERS = "other data"


class Between(NamedTuple):
    """Noises between pairs of noises, (count, *shape) by mode: at every one of the fractions all
    ``pairs``, and then noises that fill the batch.
    """

    fractions: np.ndarray
    pairs: int
    noises: dict[Mode, Array]

    def cond(self, cond: Any) -> Any:
        """Return conditions (count, ...) such that every pair keeps its own from noise to noise."""
        if cond is None:
            return None
        rows = len(self.fractions) * self.pairs
        pairs = np.tile(np.arange(self.pairs), len(self.fractions))
        return np.asarray(cond)[np.concatenate([pairs, np.arange(len(cond) - rows)])]

    def of(self, values: Any) -> np.ndarray:
        """Return what values (count, ...) are between the noises, (fractions, pairs, ...)."""
        rows = len(self.fractions) * self.pairs
        return np.asarray(values)[:rows].reshape(len(self.fractions), self.pairs, *values.shape[1:])


class Near(NamedTuple):
    """The nearest of the data to samples (batch,): its distance, which it is, and its distance over
    that of the second.
    """

    distance: np.ndarray
    index: np.ndarray
    ratio: np.ndarray


def between(noise: Array) -> Between:
    """Return noises between the first of these and the next, in a batch of as many."""
    count = noise.shape[0]
    fractions = np.linspace(0.0, 1.0, min(FRACTIONS, count))
    pairs = max(1, count // len(fractions) // 2)
    first, second = noise[:pairs], noise[pairs : 2 * pairs]
    made: dict[Mode, Array] = {}
    for mode in MODES:
        inner = analysis.interpolate(first, second, fractions, mode)
        inner = inner.reshape(-1, *noise.shape[1:])
        made[mode] = jnp.concatenate([inner, noise[: count - len(inner)]])
    return Between(fractions, pairs, made)


def spread(given: Between, noises: Array, ends: Array) -> dict[str, list[float]]:
    """Return |z|/sqrt(d) of noises and the standard deviation of the numbers of their ends."""
    z, x = (given.of(a).reshape(len(given.fractions), given.pairs, -1) for a in (noises, ends))
    return {
        "noise": (np.linalg.norm(z, axis=2) / np.sqrt(z.shape[2])).mean(axis=1).tolist(),
        "end": x.reshape(len(x), -1).std(axis=1).tolist(),
    }


def latent(study: Study) -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, int]]]:
    """Return norms and ends of noises between two noises, of the model, the Gaussian and the finite
    data set; and by mode the model's ends of the first pairs, (pairs * fractions, *shape), and how
    many fractions.
    """
    given, images = between(study.noise), {}
    found: dict[str, Any] = {n: {} for n in study.subjects if n in (MODEL, GAUSSIAN, FINITE)}
    for mode, noises in given.noises.items():
        for name in found:
            one = study.subjects[name]
            conditioned_one = one._replace(cond=given.cond(one.cond))
            ends = euler_path(conditioned_one, study.levels, noises).end
            found[name][mode] = spread(given, noises, ends)
            if name == MODEL:
                rows = np.swapaxes(given.of(ends), 0, 1)[:SHOWN]
                images[mode] = (rows.reshape(-1, *noises.shape[1:]), len(given.fractions))
    return {"fractions": given.fractions.tolist(), "pairs": given.pairs, "models": found}, images


def copies(study: Study) -> tuple[dict[str, Any], dict[str, Near]]:
    """Return how near the ends of trajectories, and other data, are to the data; a copy is nearer
    to one of them than ``COPY`` of its distance to the second.
    """
    values = jnp.asarray(study.data.values)
    near = {name: _near(one.end, values) for name, one in study.paths.items()}
    if study.data.held_out is not None:
        near[OTHERS] = _near(jnp.asarray(study.data.held_out[:COMPARED]), values)
    else:
        rows = np.random.default_rng(0).permutation(len(values))[: study.noise.shape[0]]
        near[OTHERS] = _near(values[rows], values, own=1)
    found = {
        name: {
            "median": float(np.median(one.distance)), "smallest": float(one.distance.min()),
            "copies": float(np.mean(one.ratio < COPY)),
        }
        for name, one in near.items()
    }  # fmt: skip
    return found, near


def _near(x: Array, values: Array, own: int = 0) -> Near:
    """Return the nearest of the data to samples, of which the first ``own`` are themselves."""
    count = min(own + 2, len(values))
    found = analysis.nearest(x[None], values, count)
    distance, index = (np.asarray(a[0])[:, min(own, count - 1) :] for a in found)
    return Near(distance[:, 0], index[:, 0], distance[:, 0] / np.maximum(distance[:, -1], 1e-30))
