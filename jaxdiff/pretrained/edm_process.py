"""EDM's four ways to precondition a network, as predictions of processes (2206.00364, table 1).

D(y; s) = c_skip y + c_out F(c_in y; c_noise)

           process                         F                c_noise
EDM        EDM, s = t                      prediction edm   log(s)/4
VP         VP, beta_min, beta_d            eps              (M - 1) t(s)
VE         VE, from sigma_min to _max      -eps             log(s/2)
iDDPM      Discrete, levels u              eps              M - 1 - (index of the nearest u)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.pretrained.edm_shapes import number_of
from jaxdiff.process import EDM, VE, VP, Discrete, Process, level
from jaxdiff.typing import Array

DEFAULTS: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"sigma_data": 0.5, "sigma_min": 0.0, "sigma_max": math.inf},
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
}
"""Options of each class, with their values where nothing is said."""

MOST = 10**5
LOWEST, HIGHEST = 0.002, 80.0  # of EDM's grid, where a network knows more levels


class Preconditioning(NamedTuple):
    """Preconditioning of a network, and the levels that it was trained on.

    sign: of its output. outputs: how many it has per channel. label: see ``denoiser``. round: the
    level that the network knows, for any level.
    """

    prediction: str
    process: Process
    label: Callable[[Array], Array] | None
    sigma_min: float
    sigma_max: float
    sigma_data: float = 0.5
    sign: int = 1
    outputs: int = 1
    levels: tuple[float, ...] = ()

    def grid(self, num_steps: int) -> np.ndarray:
        """Return EDM's levels, within those that the network knows, and 0: (num_steps + 1,).

        Raises ValueError for more steps than a table of levels has different ones near them.
        """
        low, high = max(LOWEST, self.sigma_min), min(HIGHEST, self.sigma_max)
        levels = np.asarray(grids.karras(num_steps, low, high), np.float64)
        if not self.levels:
            return levels
        known = np.asarray(self.levels)
        levels[:-1] = known[np.abs(levels[:-1, None] - known).argmin(axis=1)]
        if len(set(levels.tolist())) < len(levels):
            raise ValueError(f"{num_steps} steps are more than this table of levels has apart")
        return levels


def preconditioning(options: Mapping[str, Any], table: Any = None) -> Preconditioning:
    """Return the preconditioning of a class and its options.

    table: iDDPM's levels u, (M + 1,), descending to 0; computed if None.
    Raises ValueError for options that are not of it.
    """
    name = options["class_name"]
    said = {key: number_of(options, key, value) for key, value in DEFAULTS[name].items()}
    if not 2 <= (steps := said.get("M", 1000)) <= MOST or steps != int(steps):
        raise ValueError(f"the option M is {steps}; a table has 2 to {MOST} steps")
    return {"EDMPrecond": _edm, "VPPrecond": _vp, "VEPrecond": _ve, "iDDPMPrecond": _iddpm}[name](
        said, table
    )


def _edm(said: dict[str, float], table: Any) -> Preconditioning:
    low, high = said["sigma_min"], said["sigma_max"]
    if not 0 <= low < high:
        raise ValueError(f"levels from {low} to {high}, which should increase from 0 or more")
    process = EDM(min(high, HIGHEST))
    return Preconditioning("edm", process, None, low, high, said["sigma_data"])


def _vp(said: dict[str, float], table: Any) -> Preconditioning:
    process: Any = VP(said["beta_min"], said["beta_min"] + said["beta_d"])
    low, high = (float(level(process, np.float64(t))) for t in (said["epsilon_t"], 1.0))
    return Preconditioning("eps", process, _times(int(said["M"]) - 1), low, high)


def _ve(said: dict[str, float], table: Any) -> Preconditioning:
    low, high = said["sigma_min"], said["sigma_max"]
    process: Any = VE(low, high)
    return Preconditioning("eps", process, _LogHalf(low, high), low, high, sign=-1)


def _iddpm(said: dict[str, float], table: Any) -> Preconditioning:
    steps = int(said["M"])
    levels = iddpm_levels(steps, said["C_1"], said["C_2"]) if table is None else table
    levels = np.asarray(levels, np.float64)
    if levels.shape != (steps + 1,) or levels[-1] != 0 or not (levels[:-1] > levels[1:]).all():
        raise ValueError(f"u should be {steps + 1} levels, descending to 0")
    process: Any = Discrete(1 / (1 + levels[-2::-1] ** 2))
    known = tuple(levels.tolist())
    label = _Nearest(process, known)
    return Preconditioning("eps", process, label, known[-2], known[0], outputs=2, levels=known[:-1])


def iddpm_levels(steps: int, smallest: float, offset: float) -> np.ndarray:
    """Return the levels u_j, (steps + 1,), from the largest to 0 (2206.00364, table 1).

    u_(j-1)^2 = (u_j^2 + 1)/max(a_(j-1)/a_j, smallest) - 1,  a_j = sin^2(pi/2 j/(M (offset + 1))).
    """
    if not 0 < smallest < 1 or not offset > 0:
        raise ValueError(f"C_1 lies in (0, 1) and C_2 is positive; got {smallest} and {offset}")
    bars = np.sin(0.5 * np.pi * np.arange(steps + 1) / steps / (offset + 1)) ** 2
    u = np.zeros(steps + 1)
    for j in range(steps, 0, -1):
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(bars[j - 1] / bars[j], smallest) - 1)
    return u


@functools.cache
def _times(factor: int) -> Callable[[Array], Array]:
    return lambda t: factor * t


@dataclasses.dataclass(frozen=True)
class _LogHalf:
    """VE's label, the log of half the level, as a function of time."""

    low: float
    high: float

    def __call__(self, t: Array) -> Array:
        return (1 - t) * math.log(self.low / 2) + t * math.log(self.high / 2)


@dataclasses.dataclass(frozen=True)
class _Nearest:
    """iDDPM's label: the step whose level is nearest, as a function of time; -1 for level 0."""

    process: Any = dataclasses.field(compare=False)
    levels: tuple[float, ...]

    def __call__(self, t: Array) -> Array:
        known = jnp.asarray(self.levels, t.dtype).reshape((1,) * t.ndim + (-1,))
        index = jnp.argmin(jnp.abs(level(self.process, t)[..., None] - known), axis=-1)
        return len(self.levels) - 2 - index.astype(t.dtype)
