"""A scheduler as a record: process, prediction, label, sampler."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.threshold import dynamic, static
from jaxdiff.process import Discrete, Process, level
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Denoiser

Config = Mapping[str, Any]


class Plan(NamedTuple):
    """Solver, levels and options for a number of steps: ``solver(D, y, levels, **options)``."""

    solver: Callable[..., Any]
    levels: np.ndarray
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """Contents of a scheduler's configuration.

    Attributes:
        name: of the class. process, prediction, label: of the network, as
            :func:`jaxdiff.denoisers.denoiser` takes them; ``sigma_data`` for EDM's, ``sigma_min``
            for consistency models.
        plan: ``plan(num_steps)``, the class's sampler.
        unit_start: whether it starts from a state of unit variance in the process's own frame,
            y = sqrt(1 + s^2) z; otherwise from y = s z.
        clip: what the solver does not do by itself: the bound to clip D at, or None.
        quantile: that of dynamic thresholding, or None.
        config: the configuration with all defaults.
    """

    name: str
    process: Process
    prediction: str
    label: Callable[[Array], Array] | None
    plan: Callable[..., Plan]
    unit_start: bool
    clip: float | None
    quantile: float | None
    config: Config
    sigma_data: float = 0.5
    sigma_min: float = 0.0

    def grid(self, num_steps: int) -> np.ndarray:
        """Return the noise levels of a number of steps, the last one 0 or the lowest."""
        return self.plan(num_steps).levels

    def table(self, num_steps: int) -> Table:
        """Return the sampler as a table.

        Raises ValueError for one that is not linear in its states (DDIM with clip_sample, which
        clips D and not eps): run its ``plan`` by :func:`jaxdiff.direct`.
        """
        solver, levels, options = self.plan(num_steps)
        if options.get("clip") is not None:
            raise ValueError(
                f"{self.name} with clip_sample is not linear in its states and has no table: "
                "jd.direct(D, plan.solver, plan.levels, start, **plan.options)"
            )
        return table(solver, levels, **options)

    def thresholded(self, D: Denoiser) -> Denoiser:
        """Return a denoiser, guided or not, with its output kept in the range that the class keeps
        it in: clipped, or by dynamic thresholding. D itself for a class that does neither, and for
        DDIM's clipping, which its ``plan`` does.
        """
        if self.quantile is not None:
            return dynamic(D, self.quantile, 1.0, self.config["sample_max_value"])
        return D if self.clip is None else static(D, -self.clip, self.clip)

    def at_size(self, tokens: int) -> "Scheduler":
        """Return the scheduler for images of a number of tokens, on which a flow's shift may depend
        (``use_dynamic_shifting``); without that it is the same.
        """
        if not self.config.get("use_dynamic_shifting"):
            return self
        return dataclasses.replace(self, plan=functools.partial(self.plan, tokens=tokens))

    def start_scale(self, num_steps: int) -> float:
        """Return the standard deviation of the state that the first step starts from."""
        first = float(self.grid(num_steps)[0])
        return math.sqrt(1 + first**2) if self.unit_start else first

    def __repr__(self) -> str:
        """Say in one line what the scheduler is."""
        kept = "" if self.clip is None else f"; clips D to {self.clip:g}, see thresholded"
        kept = kept if self.quantile is None else "; dynamic thresholding, see thresholded"
        kind = type(self.process).__name__
        return f"Scheduler({self.name}: {self.prediction} of {kind}{kept})"


@dataclasses.dataclass(frozen=True)
class TimestepLabel:
    """The timestep at a level between those of whole timesteps, a function of the process's time.

    alphas_cumprod: of the timesteps. log: whether it is interpolated in the log of the level, or in
    the level. whole: "round" or "floor" it, or "" for a fraction.
    """

    alphas_cumprod: tuple[float, ...]
    log: bool
    whole: str = ""

    def __call__(self, t: Array) -> Array:
        """Return the timestep, 0 to N - 1, in the dtype of t."""
        products = np.asarray(self.alphas_cumprod)
        process: Any = Discrete(products)
        s, known = level(process, t), np.sqrt(1 / products - 1)
        if self.log:
            s, known = jnp.log(jnp.maximum(s, float(known[0]))), np.log(known)
        step = jnp.interp(s, jnp.asarray(known, s.dtype), jnp.arange(len(known), dtype=s.dtype))
        if self.whole == "floor":
            return jnp.floor(step + 1e-3)  # the time of a level is right to rounding
        return jnp.round(step) if self.whole else step


@dataclasses.dataclass(frozen=True)
class TimesLabel:
    """N t, what a flow network of N timesteps is conditioned on."""

    count: int

    def __call__(self, t: Array) -> Array:
        """Return N t."""
        return self.count * t
