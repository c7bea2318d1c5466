"""Reference metrics of a problem: exact samples, the exact flow, their own scores and Euler's.

Samples are taken in DRAWS sets of COUNT, each compared with an exact set of as many; numbers are
means over the sets. (A single set of 4096 would not do: its distance to another varies threefold
with the numbers that happen to fall into each mode.) The real-data score is that of exact samples:
the mean sliced Wasserstein distance, over as many independent pairs of sets as it takes to know it
to 1.2 %, so that all seeds have one unit; and, as the unbiased squared MMD is 0 in the mean, its
root mean square. Euler's method, the measure of all others, has at each NFE the best of a few
grids: on the baseline grid, which comes down to level 0.002, the last evaluation of a few is
wasted.

Two squared MMDs are taken: with the median distance as bandwidth, and, of mixtures ("near"), with
the width of a mode, which sees what happens within modes; so do the errors of
:mod:`experiments.gym.known`.
"""

import jax
import numpy as np

from experiments.gym.known import errors, modes_of
from jaxdiff import grids, solvers
from jaxdiff.app.problems import HIGH, LOW, Problem
from jaxdiff.metrics.kernel import Kernel, mean_kernel, median_bandwidth, mmd2, rbf
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Key

VERSION = 2  # 1 had neither widths nor near, and a unit that depended on the seed
COUNT, DRAWS, REAL_SETS, FEWER = 4096, 4, 12, 2048
PRECISION, PAIRS = 0.012, 32  # of the real-data score; pairs of sets at a time
LOWEST = (LOW, 0.05, 0.2, 0.5, 1.0)  # levels that Euler's grids come down to before 0
NFES = (1, 2, 4)


class ReferenceMetrics:
    """Exact samples of a problem and what is known of distances to them.

    real_data: "sliced", "mmd2" and, of a mixture, "near", "modes" and "widths", of a Gaussian
        "mean"
    and "std", of exact samples. std: the standard deviation of
    the sliced distance of two exact sets. euler: the
    numbers of Euler's method and the exact denoiser, by NFE.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        """Draw exact samples and solve the flow for all starts."""
        keys = jax.random.split(jax.random.key(1000 + seed), 5)
        self.problem, self.shape, self.key = problem, (problem.dimension,), keys[2]
        self.reference = np.asarray(problem.samples(keys[0], DRAWS * COUNT))
        self.modes = modes_of(problem, keys[3])
        other = np.asarray(problem.samples(keys[1], REAL_SETS * DRAWS * COUNT))
        self.kernels = {"mmd2": rbf(median_bandwidth(self.reference, other))}
        if self.modes is not None:
            width = np.sqrt(np.mean(np.sum(self.modes.roots**2, axis=(1, 2))))
            self.kernels["near"] = rbf(float(width))
        self.within = {
            name: [mean_kernel(b[:FEWER], kernel) for b in np.split(self.reference, DRAWS)]
            for name, kernel in self.kernels.items()
        }
        mean, self.std = unit(problem, keys[4])
        self.real_data = {"sliced": mean}
        self.real_data |= {name: mmd_real_data(other, k, FEWER) for name, k in self.kernels.items()}
        parts = [errors(p, problem, self.modes) for p in np.split(other, REAL_SETS)]
        self.real_data |= {name: float(np.mean([p[name] for p in parts])) for name in parts[0]}
        start = HIGH * start_noise(self.key, DRAWS * COUNT, self.shape)
        self.end = np.asarray(problem.flow(start))
        self.euler = {nfe: self._best_euler(nfe) for nfe in NFES}

    def _best_euler(self, nfe: int) -> dict[str, float]:
        """Return the numbers of Euler's method on the best of a few Karras grids."""
        D = self.problem.model.denoiser
        found = [
            self.measure(Sampler(D, table(solvers.euler, grids.karras(nfe, low, HIGH))))
            for low in (LOWEST if nfe > 1 else LOWEST[:1])
        ]
        return min(found, key=lambda numbers: numbers["sliced"])

    def measure(self, sampler: Sampler) -> dict[str, float]:
        """Distances of a sampler's samples to exact ones, and errors of what is known of these
        (:func:`experiments.gym.known.errors`); if it draws no noise, "to_flow" too: the root mean
        square distance of each to where the exact flow ends.

        Raises FloatingPointError for samples that are not finite.
        """
        x = np.asarray(sampler(self.key, DRAWS * COUNT, self.shape))
        if lost := int((~np.isfinite(x).all(axis=1)).sum()):
            raise FloatingPointError(
                f"{lost} of {len(x)} samples in {sampler.table.nfe} evaluations are not finite"
            )
        pairs = list(zip(np.split(x, DRAWS), np.split(self.reference, DRAWS), strict=True))
        found = {"sliced": float(np.mean([sliced_wasserstein(a, b) for a, b in pairs]))}
        for name, kernel in self.kernels.items():
            each = [
                mmd2(a[:FEWER], b[:FEWER], kernel, within=own)
                for (a, b), own in zip(pairs, self.within[name], strict=True)
            ]
            found[name] = float(np.mean(each))
        found |= errors(x, self.problem, self.modes)
        if not sampler.table.stochastic:
            found["to_flow"] = float(np.sqrt(np.mean(np.sum((x - self.end) ** 2, axis=1))))
        return found


def unit(problem: Problem, key: Key) -> tuple[float, float]:
    """Mean sliced Wasserstein distance of two exact sets, to a standard error of PRECISION of it,
    and the standard deviation of a pair. No set is in two pairs.
    """
    found: list[float] = []
    while True:
        x = np.asarray(problem.samples(jax.random.fold_in(key, len(found)), 2 * PAIRS * COUNT))
        sets = np.split(x, 2 * PAIRS)
        found += [sliced_wasserstein(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
        mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
        if spread <= PRECISION * mean * len(found) ** 0.5:
            return mean, spread


def mmd_real_data(x: np.ndarray, kernel: Kernel, count: int) -> float:
    """Root mean square of the unbiased squared MMD of two exact sets of ``count``.

    With h the kernel centred in both arguments it is a mean of h over different samples, within
    the sets and between, of which no two terms correlate: its variance is E h^2 (2 + 2) / (n (n -
    1)) + 4 E h^2 / n^2. The expectation is that over the samples ``x``.
    """
    x = x[: 2 * count]
    h = kernel(x, x)
    h = h - h.mean(axis=0)[None] - h.mean(axis=1)[:, None] + h.mean()
    np.fill_diagonal(h, 0.0)
    mean = float(np.sum(h**2)) / (len(x) * (len(x) - 1))
    return float(np.sqrt(mean * (4 / (count * (count - 1)) + 4 / count**2)))
