"""Particles in the plane against the exact denoiser of a mixture of Gaussians.

A particle is a scene of its own whose rendering is itself, x(theta) = theta. With the weight w(s)
of a difference of noises, score distillation moves it down

    L(x) = -E w(s) s log p_s(x + s eps),      grad L = E w(s) (eps_teacher(x + s eps, s) - eps),

whatever the other particles do: all that start in one valley of L end at its lowest point.
Variational score distillation subtracts the score of the particles themselves, which pushes them
apart until they are spread as the data are.
"""

import functools
import sys
import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.gym import train
from jaxdiff.app.problems import SIGMA_DATA, Problem, make_problem
from jaxdiff.distill.parts.generator import in_time, log_normal
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score.score_distillation import (
    score_distillation,
    variance,
    variational_score_distillation,
)
from jaxdiff.exact import GaussianMixture
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.networks import from_linen
from jaxdiff.process import VP
from jaxdiff.training import fit
from jaxdiff.typing import Array, Key

Row = dict[str, Any]
BATCH, RATE, FAKE_RATE, RANK, SETS, APART = 256, 0.02, 1e-3, 4, 4, 0.1


_VP = cast(Any, VP())
LEVELS = {
    "whole": in_time(_VP, 0.02, 0.98),
    "low": in_time(_VP, 0.02, 0.06),
    "log-normal": log_normal(-1.2, 1.2),
}


class Choice(NamedTuple):
    """Optimisation of the particles.

    method: "sds" or "vsd". levels: "whole", uniform in a variance-preserving process's time from
    2 to 98 %; "low", to 6 % only; "log-normal", as denoisers are trained at. few: so many particles
    and no more.
    """

    method: str
    levels: str = "whole"
    few: int | None = None


CHOICES = {
    "SDS": Choice("sds"),
    "SDS, low levels": Choice("sds", "low"),
    "VSD": Choice("vsd"),
    "VSD, log-normal levels": Choice("vsd", "log-normal"),
    "VSD, 32 particles": Choice("vsd", "log-normal", few=32),
}


def problem() -> Problem:
    """Six Gaussians of unequal weights."""
    return make_problem("mixture-2d")


def some(size: int, particles: Array, key: Key) -> Array:
    """Return the rendering: ``size`` particles drawn at random."""
    return particles[jax.random.randint(key, (size,), 0, len(particles))]


def distilled(
    choice: Choice, count: int, updates: int, start_updates: int, seed: int
) -> np.ndarray:
    """Return where ``count`` particles of a normal distribution end, (count, 2)."""
    given = problem()
    start = SIGMA_DATA * jax.random.normal(jax.random.key(seed), (count, 2))
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, updates, 0.02), b2=0.99)
    levels = LEVELS[choice.levels]
    common = {"levels": levels, "optimiser": optimiser}
    if choice.method == "sds":  # as cheap as they are, all at once
        draw = functools.partial(some, count)
        method = score_distillation(given.model.denoiser, draw, start, **common)
    else:
        params, _ = train.pretrained(given, seed, start_updates)
        fake = Student(
            from_linen(train.module()), params, sigma_data=SIGMA_DATA,
            optimiser=optax.adam(FAKE_RATE),
        )  # fmt: skip
        method = variational_score_distillation(
            given.model.denoiser,
            functools.partial(some, BATCH),
            start,
            fake,
            rank=RANK,
            late_levels=levels,
            fake_levels=levels,
            **common,
        )
    state = fit(
        method, lambda step: {}, num_updates=updates, key=seed, progress=sys.stderr.isatty()
    )
    return np.asarray(state.params["student"])


def run(choice: Choice, count: int, updates: int, start_updates: int, seed: int) -> Row:
    """Numbers of one choice, and the particles."""
    began, count = time.perf_counter(), choice.few or count
    x = distilled(choice, count, updates, start_updates, seed)
    seconds = time.perf_counter() - began
    return {
        "count": count,
        "seconds": seconds,
        **numbers(x, problem(), seed),
        "particles": x.round(4).tolist(),
    }


def numbers(x: np.ndarray, given: Problem, seed: int) -> Row:
    """Return what particles (n, 2) are like, beside as many exact samples.

    "sliced": mean sliced Wasserstein distance to sets of exact samples; "real_data": that of exact
    samples to them. "shares": the fraction of particles nearest to each mode, over that of exact
    samples; "spread": their standard deviation there, likewise. "ends": groups of particles further
    than APART from all others.
    """
    keys = jax.random.split(jax.random.key(1000 + seed), 2 * SETS)
    exact = [np.asarray(given.samples(key, len(x))) for key in keys]
    reference, others = exact[:SETS], exact[SETS:]
    share, spread = by_mode(x, given.modes)
    true_share, true_spread = by_mode(np.concatenate(exact), given.modes)
    return {
        "sliced": float(np.mean([sliced_wasserstein(x, e) for e in reference])),
        "real_data": float(
            np.mean([sliced_wasserstein(*pair) for pair in zip(others, reference, strict=True)])
        ),
        "shares": (share / true_share).tolist(),
        "spread": (spread / true_spread).tolist(),
        "ends": ends(x),
    }


def by_mode(x: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the points nearest to each mode, their fraction and their standard deviation."""
    nearest = np.linalg.norm(x[:, None] - modes, axis=2).argmin(axis=1)
    share = np.bincount(nearest, minlength=len(modes)) / len(x)
    own = [x[nearest == k] for k in range(len(modes))]
    return share, np.array([p.std(axis=0).mean() if len(p) else 0.0 for p in own])


def ends(x: np.ndarray, apart: float = APART) -> int:
    """Number of groups of points, two points of one group being joined by steps of at most
    ``apart``.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    i, j = KDTree(x).query_pairs(apart, output_type="ndarray").T
    joined = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(x), len(x)))
    return int(connected_components(joined, directed=False)[0])


@functools.partial(jax.jit, static_argnames=("choice", "draws"))
def landscape(x: Array, model: GaussianMixture, choice: Choice, draws: int = 512) -> Array:
    """L at points (n, 2), the mean over ``draws`` levels and pairs of opposite noises, the same for
    all points.
    """
    keys = jax.random.split(jax.random.key(0))
    s = LEVELS[choice.levels](keys[0], jnp.zeros((draws, 2), x.dtype))
    noise = s[:, None] * jax.random.normal(keys[1], (draws, 2), x.dtype)

    def at(point: Array) -> Array:
        both = [model.log_density(point[None] + move, s) for move in (noise, -noise)]
        return -jnp.mean(variance(s) * s * sum(both)) / 2

    return jax.lax.map(at, x, batch_size=128)
