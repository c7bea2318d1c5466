"""What samples of a problem are measured with: exact samples, the exact flow, floor and Euler.

Samples are taken in DRAWS sets of COUNT, each compared with an exact set of as many; numbers are
means over the sets. (A single set of 4096 would not do: its distance to another varies threefold
with the numbers that happen to fall into each mode.) The floor is the same for exact samples: the
mean sliced Wasserstein distance, and, as the unbiased squared MMD is 0 in the mean, its root mean
square. Euler's method, the measure of all others, has at each NFE the best of a few grids: on the
usual one, which comes down to level 0.002, the last evaluation of a few is wasted.
"""

import jax
import numpy as np

from experiments.gym.problems import HIGH, LOW, Problem
from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian
from jaxdiff.metrics.kernel import median_bandwidth, mmd2, rbf
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.sampling.sample import Sampler, start_noise
from jaxdiff.sampling.trace import table

COUNT, DRAWS, FLOORS, FEWER = 4096, 4, 12, 2048
LOWEST = (LOW, 0.05, 0.2, 0.5, 1.0)  # levels that Euler's grids come down to before 0
NFES = (1, 2, 4)


class Ruler:
    """Exact samples of a problem and what is known of distances to them.

    floor: "sliced", "mmd2" and, of a mixture, "modes", of a Gaussian "mean" and "std", of exact
    samples. spread: the standard deviation of the floor's sets. euler: the numbers of Euler's
    method and the exact denoiser, by NFE.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        """Draw exact samples and solve the flow for all starts."""
        keys = jax.random.split(jax.random.key(1000 + seed), 3)
        self.problem, self.shape, self.key = problem, (problem.dimension,), keys[2]
        self.reference = np.asarray(problem.samples(keys[0], DRAWS * COUNT))
        other = np.asarray(problem.samples(keys[1], FLOORS * COUNT))
        self.kernel = rbf(median_bandwidth(self.reference, other))
        self.shares = _shares(np.concatenate([self.reference, other]), problem.modes)
        sets = self._sets(other)
        self.floor = {
            "sliced": float(np.mean(sets["sliced"])),
            "mmd2": float(np.sqrt(np.mean(np.square(sets["mmd2"])))),
        }
        whole = other.reshape(-1, DRAWS * COUNT, problem.dimension)
        parts = [errors(part, problem, self.shares) for part in whole]
        self.floor |= {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        self.spread = float(np.std(sets["sliced"]))
        start = HIGH * start_noise(self.key, DRAWS * COUNT, self.shape)
        self.end = np.asarray(problem.flow(start))
        self.euler = {nfe: self._best_euler(nfe) for nfe in NFES}

    def _best_euler(self, nfe: int) -> dict[str, float]:
        """The numbers of Euler's method on the best of a few Karras grids."""
        D = self.problem.model.denoiser
        found = [
            self.measure(Sampler(D, table(solvers.euler, grids.karras(nfe, low, HIGH))))
            for low in (LOWEST if nfe > 1 else LOWEST[:1])
        ]
        return min(found, key=lambda numbers: numbers["sliced"])

    def measure(self, sampler: Sampler) -> dict[str, float]:
        """Distances of a sampler's samples to exact ones, and errors of what is known of these
        (:func:`errors`); if it draws no noise, "to_flow" too: the root mean square distance of each
        to where the exact flow ends.

        Raises FloatingPointError for samples that are not finite.
        """
        x = np.asarray(sampler(self.key, DRAWS * COUNT, self.shape))
        if lost := int((~np.isfinite(x).all(axis=1)).sum()):
            raise FloatingPointError(
                f"{lost} of {len(x)} samples in {sampler.table.nfe} evaluations are not finite"
            )
        found = {name: float(np.mean(values)) for name, values in self._sets(x).items()}
        found |= errors(x, self.problem, self.shares)
        if not sampler.table.stochastic:
            found["to_flow"] = float(np.sqrt(np.mean(np.sum((x - self.end) ** 2, axis=1))))
        return found

    def _sets(self, x: np.ndarray) -> dict[str, list[float]]:
        pairs = [
            (x[i : i + COUNT], self.reference[i % len(self.reference) :][:COUNT])
            for i in range(0, len(x), COUNT)
        ]
        return {
            "sliced": [sliced_wasserstein(a, b) for a, b in pairs],
            "mmd2": [mmd2(a[:FEWER], b[:FEWER], self.kernel) for a, b in pairs],
        }


def errors(x: np.ndarray, problem: Problem, shares: np.ndarray) -> dict[str, float]:
    """Of a mixture "modes", the largest relative error of a mode's share, ``shares`` being exact.

    Of a Gaussian "mean", the error's length relative to the whole standard deviation, and "std",
    the root mean square over the principal axes of a standard deviation's relative error.
    """
    model = problem.model
    if len(problem.modes) > 1:
        return {"modes": float(np.max(np.abs(_shares(x, problem.modes) / shares - 1.0)))}
    if not isinstance(model, Gaussian):
        return {}
    apart = x - np.asarray(model.mean)
    along = apart if model.axes is None else apart @ np.asarray(model.axes)
    deviations = np.sqrt(np.asarray(model.variances))
    return {
        "mean": float(np.linalg.norm(apart.mean(axis=0)) / np.linalg.norm(deviations)),
        "std": float(np.sqrt(np.mean((along.std(axis=0) / deviations - 1.0) ** 2))),
    }


def _shares(x: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Fraction of the samples that is nearest to each mode."""
    nearest = ((modes**2).sum(axis=1) - 2 * x @ modes.T).argmin(axis=1)
    return np.bincount(nearest, minlength=len(modes)) / len(x)
