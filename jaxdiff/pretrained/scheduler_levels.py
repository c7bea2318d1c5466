"""Timesteps, levels and labels of schedulers' configurations."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import beta as beta_distribution

from jaxdiff import grids
from jaxdiff.pretrained.scheduler import Config, Scheduler, TimestepLabel
from jaxdiff.process import (
    Discrete,
    cosine_betas,
    discrete_label,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)

PREDICTIONS = {
    "epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow",
}  # fmt: skip
NEXT = 1 - 1e-9  # a last step that a class spends an evaluation on, and takes with length zero


def betas(config: Config) -> np.ndarray:
    """Return the betas of a configuration, (N,) in float64."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], np.float64)
    count, kind = config["num_train_timesteps"], config["beta_schedule"]
    ends = config["beta_start"], config["beta_end"]
    if kind == "linear":
        return linear_betas(count, *ends)
    if kind == "scaled_linear":
        return scaled_linear_betas(count, *ends)
    if kind == "squaredcos_cap_v2":
        return cosine_betas(count)
    raise ValueError(f"beta_schedule {kind!r} is not read")


def discrete(config: Config, last: float = 0.0) -> np.ndarray:
    """Return the cumulative products of alpha^2, (N,), a zero at the end replaced by ``last``."""
    products = np.cumprod(1 - betas(config))
    if config["rescale_betas_zero_snr"]:
        products = zero_terminal_snr(products)
        products[-1] = min(last, products[-2] / 2)
    return products


def spaced_timesteps(config: Config, num_steps: int, last: bool = False) -> np.ndarray:
    """Return the timesteps, decreasing, of a spacing; with ``last`` those of one step more but its
    last.
    """
    spacing = config["timestep_spacing"]
    count = num_steps + (last and spacing != "trailing")
    offset = config["steps_offset"] if spacing == "leading" else 0
    if count == 1 and spacing != "trailing":
        return np.array([offset])  # as these classes have it, however little it is worth
    made = grids.timesteps(
        count, spacing, num_timesteps=config["num_train_timesteps"], offset=offset
    )
    return made[:num_steps]


def special_spacing(config: Config, num_steps: int, low: float, high: float) -> np.ndarray | None:
    """Return levels of a special spacing between two, or None if none is configured."""
    ramp = np.linspace(0, 1, num_steps)
    if config.get("use_karras_sigmas"):
        return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    if config.get("use_exponential_sigmas") or config.get("use_lu_lambdas"):
        return np.exp(np.log(high) + ramp * (np.log(low) - np.log(high)))
    if config.get("use_beta_sigmas"):
        return low + beta_distribution.ppf(1 - ramp, 0.6, 0.6) * (high - low)
    return None


def grid_of_timesteps(
    name: str, config: Config, products: np.ndarray, num_steps: int
) -> np.ndarray:
    """Return the grid of the classes that start from whole timesteps."""
    known = np.sqrt(1 / products - 1)
    special = special_spacing(config, num_steps, known[0], known[-1])
    levels = known[spaced_timesteps(config, num_steps, last=True)] if special is None else special
    if config["final_sigmas_type"] == "zero":
        return np.append(levels, 0.0)
    low = levels[-1] if special is not None and name == "DEISMultistepScheduler" else known[0]
    return np.append(levels, min(low, levels[-1] * NEXT))


def grid_between_timesteps(config: Config, products: np.ndarray, num_steps: int) -> np.ndarray:
    """Return the grid of the classes that interpolate levels between timesteps."""
    known, count = np.sqrt(1 / products - 1), len(products)
    if config["timestep_spacing"] == "linspace":
        steps = np.linspace(0, count - 1, num_steps)[::-1]
    else:
        steps = spaced_timesteps(config, num_steps)
    levels = np.interp(steps, np.arange(count), known)
    low, high = config.get("sigma_min") or levels[-1], config.get("sigma_max") or levels[0]
    special = special_spacing(config, num_steps, low, high)
    levels = levels if special is None else special
    end = 0.0 if config["final_sigmas_type"] == "zero" else known[0]
    return np.append(levels, end) if levels[-1] > end else levels


def label_of_level(
    name: str, config: Config, products: np.ndarray, rounded: bool
) -> Callable[..., Any]:
    """Return the label at a level of :func:`grid_of_timesteps` or
    :func:`grid_between_timesteps`.
    """
    own = tuple(products.tolist())
    special = special_spacing(config, 2, 0.1, 1.0) is not None
    if not rounded:
        whole = special or config["timestep_spacing"] == "linspace"
        return TimestepLabel(own, log=special) if whole else discrete_label(len(own))
    if not special:
        return discrete_label(len(own))
    cosine = (
        config["beta_schedule"] == "squaredcos_cap_v2" and name == "DPMSolverMultistepScheduler"
    )
    kept = (config.get("use_karras_sigmas") or config.get("use_lu_lambdas")) and not cosine
    return TimestepLabel(own, log=True, whole="round" if kept else "floor")


def discrete_scheduler(name: str, config: Config, products: np.ndarray, **more: Any) -> Scheduler:
    """Return the scheduler of a process of N timesteps."""
    kind = config["prediction_type"]
    if kind not in PREDICTIONS:
        raise ValueError(f"{name}: prediction_type {kind!r} is not read")
    quantile = config["dynamic_thresholding_ratio"] if config["thresholding"] else None
    process: Any = Discrete(products)
    return Scheduler(
        name, process, PREDICTIONS[kind],
        **{"clip": None, "quantile": quantile, "unit_start": True, "config": dict(config),
           "label": discrete_label(len(products)), **more},
    )  # fmt: skip
