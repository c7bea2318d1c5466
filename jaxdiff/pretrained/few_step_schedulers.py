r"""Schedulers of diffusers for students of few steps: LCM, TCD and consistency models.

    LCMScheduler    f = c_skip alpha y + c_out D, then f + r z at the next level r (2310.04378,
                    algorithm 3); u = scaling k at timestep k, c_skip = sd^2/(u^2 + sd^2),
                    c_out = u/sqrt(u^2 + sd^2), sd = 1/2
    TCDScheduler    jump to timestep floor((1 - gamma) k) of the next timestep k, then noise up to k
                    (2402.19159, algorithm 4); gamma 0.3, the class's own eta; the end is timestep 0
    CMStochasticIterativeScheduler
                    EDM's network with a boundary at sigma_min, multistep sampling (2303.01469,
                    algorithm 1) on every (N // n)-th of Karras's N levels

LCM and TCD take n of M = original_inference_steps timesteps j N // M - 1, j = M, ..., 1, those of
places floor(i M / n). The boundary of LCM is a part of its solver, linear in y and D, so that D is
the denoiser and the sampler a table; that of consistency models is the network's preconditioning,
as everywhere else in this library, so that D is the consistency function.

Differences from the classes: a last step of length zero is not taken. ``set_alpha_to_one`` has no
effect in LCM and TCD, there as here.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.prediction import SMALLEST
from jaxdiff.pretrained.scheduler import Config, Plan, Scheduler
from jaxdiff.pretrained.scheduler_levels import discrete, discrete_scheduler
from jaxdiff.process import EDM, Discrete
from jaxdiff.solvers.scalar import D, Noise, Scalar, State
from jaxdiff.typing import Array

INFINITE = 1e9  # level of the start of a process whose alpha ends in 0
SIGMA_DATA, GAMMA = 0.5, 0.3  # of LCM's boundary and of TCD's steps: numbers of the classes


def lcm(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    skip: Sequence[float],
    out: Sequence[float],
) -> Iterator[State]:
    """Multistep sampling whose consistency function is skip y + out D, numbers per step; one draw
    per step that does not end at 0.
    """
    for s, r, p, q in zip(levels, levels[1:], skip, out, strict=False):
        y = p * y + q * D(y, s)
        if r > 0:
            y = y + r * noise()
        yield y


def chosen_timesteps(name: str, config: Config, num_steps: int) -> np.ndarray:
    """Return the timesteps, decreasing, of LCM and TCD."""
    count, original = config["num_train_timesteps"], config["original_inference_steps"]
    if not 1 <= original <= count:
        raise ValueError(f"{name}: original_inference_steps must be 1 to {count}, not {original}")
    if not 1 <= num_steps <= original:
        raise ValueError(f"{name} has 1 to {original} steps, not {num_steps}")
    places = np.floor(np.linspace(0, original, num_steps, endpoint=False)).astype(int)
    return (np.arange(original, 0, -1) * (count // original) - 1)[places]


def read_lcm(name: str, config: Config) -> Scheduler:
    """Return the scheduler of a latent consistency model."""
    products = discrete(config)

    def make(num_steps: int) -> Plan:
        steps = chosen_timesteps(name, config, num_steps)
        u = config["timestep_scaling"] * steps.astype(np.float64)
        norm = u**2 + SIGMA_DATA**2
        skip, out = np.sqrt(products[steps]) * SIGMA_DATA**2 / norm, u / np.sqrt(norm)
        levels = grids.of_timesteps(Discrete(products), steps, largest=INFINITE)
        return Plan(lcm, np.asarray(levels), {"skip": skip.tolist(), "out": out.tolist()})

    clip = config["clip_sample_range"] if config["clip_sample"] else None
    return discrete_scheduler(name, config, products, plan=make, clip=clip)


def read_tcd(name: str, config: Config) -> Scheduler:
    """Return the scheduler of a trajectory consistency model."""
    for field in ("clip_sample", "thresholding"):
        if config[field]:
            raise ValueError(f"{name} with {field} is not read")
    products = discrete(config)

    def make(num_steps: int) -> Plan:
        steps = chosen_timesteps(name, config, num_steps)
        ends = np.append(steps[1:], [0] if steps[-1] > 0 else [])  # none of length zero
        lower = np.floor((1 - GAMMA) * ends).astype(int)
        at = functools.partial(grids.of_timesteps, Discrete(products), largest=INFINITE)
        levels = np.asarray(at(np.append(steps[:1], ends)))[:-1]
        below = [float(at([k])[0]) for k in lower]
        return Plan(solvers.tcd, levels, {"gamma": GAMMA, "lower": below})

    return discrete_scheduler(name, config, products, plan=make)


def log_label(level: Array) -> Array:
    """Return 250 log(level), the label of consistency models' networks."""
    return 250 * jnp.log(jnp.maximum(level, SMALLEST))


def read_consistency(name: str, config: Config) -> Scheduler:
    """Return the scheduler of a consistency model."""
    low, high, count = config["sigma_min"], config["sigma_max"], config["num_train_timesteps"]
    if config["s_noise"] != 1:
        raise ValueError(f"{name}: s_noise is read as 1 only, not {config['s_noise']!r}")

    def make(num_steps: int) -> Plan:
        if not 1 <= num_steps <= count:
            raise ValueError(f"{name} has 1 to {count} steps, not {num_steps}")
        places = np.arange(num_steps) * (count // num_steps)
        known = np.asarray(grids.karras(count - 1, low, high, rho=config["rho"], zero=False))
        levels = np.append(known[places], [low] if places[-1] < count - 1 else [])
        return Plan(solvers.consistency, levels, {"smallest": low})

    clip = 1.0 if config["clip_denoised"] else None
    return Scheduler(
        name, EDM(), "edm", log_label, make, False, clip, None, dict(config), config["sigma_data"],
        sigma_min=low,
    )  # fmt: skip


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LCM: Config = {**BETAS, "original_inference_steps": 50, "clip_sample": False}
FEW_STEP: dict[str, tuple[Config, Callable[[str, Config], Scheduler]]] = {
    "LCMScheduler": ({**LCM, "timestep_scaling": 10.0}, read_lcm),
    "TCDScheduler": (LCM, read_tcd),
    "CMStochasticIterativeScheduler": (
        {"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
         "s_noise": 1.0, "rho": 7.0, "clip_denoised": True}, read_consistency,
    ),
}  # fmt: skip
