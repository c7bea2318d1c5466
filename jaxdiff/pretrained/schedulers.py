r"""The scheduler of a diffusers folder as process, prediction, grid and solver.

A scheduler_config.json names a class, whose defaults hold where the file is silent. It says three
things, which are apart here:

    the process     betas of N timesteps, or the times of a rectified flow
    the network     what it predicts, and the timestep it is conditioned on at a level
    the sampler     a solver with its options, and noise levels for a number of steps

Classes that step through whole timesteps (DDIM, DDPM, PNDM) have the levels of these; classes that
step in levels (DPM-Solver, UniPC, DEIS) have them rounded from equally spaced ones; classes of
k-diffusion (Euler, Heun, LMS, KDPM2) interpolate levels linearly between timesteps. Any of the last
two may have levels of Karras, exponential or Beta spacing instead, whose timestep is interpolated
in the log of the level. Those of students of few steps are in
:mod:`jaxdiff.pretrained.few_step_schedulers`.

Differences from the classes: a last step of length zero of DDIM and PNDM is not taken; numbers are
in float64 where these have float32; UniPC to level 0 is finite for each of its variants; the
timestep of KDPM2 is that of log interpolation at every evaluation, not only at those between its
levels.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.pretrained.few_step_schedulers import FEW_STEP
from jaxdiff.pretrained.scheduler import Config, Plan, Scheduler, TimesLabel
from jaxdiff.pretrained.scheduler_levels import (
    NEXT,
    discrete,
    discrete_scheduler,
    grid_between_timesteps,
    grid_of_timesteps,
    label_of_level,
    spaced_timesteps,
    special_spacing,
)
from jaxdiff.process import (
    EDM,
    Discrete,
    RectifiedFlow,
)
from jaxdiff.solvers.planning import plan, plan_orders

INFINITE = 1e9  # level of the start of a process whose alpha ends in 0
LARGE = 2.0**-24  # what classes that work in levels put in the place of that alpha's square
SMALL_BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
KARRAS_BETAS = SMALL_BETAS | {"beta_start": 0.00085, "beta_end": 0.012}
LEADING, LINSPACE = {"timestep_spacing": "leading"}, {"timestep_spacing": "linspace"}


COMMON: Config = {
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 0,
    "rescale_betas_zero_snr": False, "thresholding": False, "sample_max_value": 1.0,
    "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1.0, "final_sigmas_type": "zero",
}  # fmt: skip


# Classes that step through whole timesteps


def _ddim(name: str, config: Config) -> Scheduler:
    products = discrete(config)
    clip = config["clip_sample_range"] if config["clip_sample"] else None
    if config["thresholding"]:
        raise ValueError(f"{name} with thresholding is not read")

    def make(num_steps: int) -> Plan:
        own, count = Discrete(products), len(products)
        steps = spaced_timesteps(config, num_steps)
        arrivals = steps - count // num_steps
        levels = grids.of_timesteps(own, steps, largest=INFINITE)
        low = 0.0 if config["set_alpha_to_one"] else math.sqrt(1 / products[0] - 1)
        ends = [float(grids.of_timesteps(own, [max(k, 0)])[0]) if k >= 0 else low for k in arrivals]
        levels = np.append(levels[:-1], ends[-1])
        if steps[-1] == 0 and ends[-1] > 0:
            levels = levels[:-1]  # a last step of length zero
        if clip is None and np.allclose(ends[:-1], levels[1 : len(ends)], rtol=1e-12):
            return Plan(solvers.euler, levels, {})
        return Plan(strided_ddim, levels, {"arrivals": tuple(ends), "clip": clip})

    return discrete_scheduler(name, config, products, plan=make)


no_noise: Any = lambda: 0.0  # noqa: E731 - of a solver that does not call it


def strided_ddim(
    D: Any, y: Any, levels: Any, arrivals: tuple[float, ...], clip: float | None = None
) -> Any:
    """DDIM whose steps all have N // n timesteps, whatever the spacing, as diffusers has it.

    Where the grid has other intervals a step arrives at another level than the next one starts
    from, and the state, in the frame of unit variance, is taken for one of that. With ``clip``, D
    is clipped and the eps of the unclipped D kept, which is not linear: run it by
    :func:`jaxdiff.direct`.
    """
    for (s, r), end in zip(zip(levels, levels[1:], strict=False), arrivals, strict=False):
        (y,) = solvers.ddim(D, y, [s, end], no_noise, eta=0.0, clip=clip)
        yield (y := y * (math.sqrt(1 + r * r) / math.sqrt(1 + end * end)))


def _ddpm(name: str, config: Config) -> Scheduler:
    kind = str(config["variance_type"])
    if kind not in ("fixed_small", "fixed_large", "fixed_small_log"):
        raise ValueError(f"{name}: variance_type {kind!r} is not read")
    products = discrete(config)

    def make(num_steps: int) -> Plan:
        levels = grids.of_timesteps(
            Discrete(products), spaced_timesteps(config, num_steps), largest=INFINITE
        )
        return Plan(solvers.ddpm, levels, {"variance": kind.split("_")[1]})

    clip = config["clip_sample_range"] if config["clip_sample"] else None
    return discrete_scheduler(name, config, products, plan=make, clip=clip)


def _pndm(name: str, config: Config) -> Scheduler:
    products = discrete(config)

    def make(num_steps: int) -> Plan:
        steps, low = spaced_timesteps(config, num_steps), math.sqrt(1 / products[0] - 1)
        levels = grids.of_timesteps(Discrete(products), steps)
        if not config["set_alpha_to_one"]:
            levels = np.append(levels[:-1], [low] if steps[-1] > 0 else [])
        if config["skip_prk_steps"]:
            return Plan(solvers.pndm, levels, {"warm_up": "heun"})
        between = steps[:3] - len(products) // num_steps // 2
        intermediate = grids.of_timesteps(Discrete(products), between)[:-1]
        return Plan(solvers.pndm, levels, {"intermediate_levels": intermediate.tolist()})

    return discrete_scheduler(name, config, products, plan=make)


# Classes that step in levels


def _multistep(
    name: str, config: Config, options: Callable[[int], tuple[Any, dict[str, Any]]]
) -> Scheduler:
    """Return the scheduler of a class that rounds to timesteps and steps in levels."""
    for field in ("use_flow_sigmas", "use_dynamic_shifting", "euler_at_final"):
        if config.get(field):
            raise ValueError(f"{name} with {field} is not read")
    if config.get("lambda_min_clipped", -math.inf) != -math.inf:
        raise ValueError(f"{name} with lambda_min_clipped is not read")
    if config.get("variance_type") in ("learned", "learned_range"):
        raise ValueError(f"{name} with variance_type {config['variance_type']!r} is not read")
    products = discrete(config, LARGE)

    def make(num_steps: int) -> Plan:
        solver, chosen = options(num_steps)
        return Plan(solver, grid_of_timesteps(name, config, products, num_steps), chosen)

    label = label_of_level(name, config, products, rounded=True)
    return discrete_scheduler(name, config, products, plan=make, label=label)


def _orders(config: Config, num_steps: int, always: bool = False) -> dict[str, Any]:
    """Return order and whether it is lowered at the end, which happens below 15 steps only."""
    lower = config["lower_order_final"] and (num_steps < 15 or always)
    return {"order": config["solver_order"], "lower_final": bool(lower)}


def _dpm_multistep(name: str, config: Config) -> Scheduler:
    kind = config["algorithm_type"]
    second = "exact" if config["solver_type"] == "heun" else "midpoint"
    if kind not in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"):
        raise ValueError(f"{name}: algorithm_type {kind!r} is not read")
    if kind == "sde-dpmsolver++" and config["solver_order"] > 2:
        raise ValueError(f"{name}: {kind!r} of order {config['solver_order']} is not read")

    def options(num_steps: int) -> tuple[Any, dict[str, Any]]:
        if kind == "sde-dpmsolver++":
            return solvers.sde_dpmpp, {"order": config["solver_order"]}
        prediction = "data" if kind == "dpmsolver++" else "noise"
        more = {"prediction": prediction, "second": second, "reference": True}
        return solvers.dpmpp, _orders(config, num_steps) | more

    return _multistep(name, config, options)


def _dpm_singlestep(name: str, config: Config) -> Scheduler:
    if config["algorithm_type"] != "dpmsolver++" or config["solver_type"] != "midpoint":
        raise ValueError(f"{name} is read with dpmsolver++ and midpoint only")
    made = _multistep(name, config, lambda num_steps: (solvers.dpm_solver, {}))

    def make(num_steps: int) -> Plan:
        *full, last = plan_orders(num_steps, config["solver_order"])
        whole = [*full, *[1] * last] if config["final_sigmas_type"] == "zero" else [*full, last]
        steps = plan(made.plan(num_steps).levels, orders=whole)
        options = {"orders": steps.orders, "ratios": steps.ratios, "reference": True}
        return Plan(solvers.dpm_solver, np.array(steps.levels), {"prediction": "data"} | options)

    return dataclasses.replace(made, plan=make)


def _unipc(name: str, config: Config) -> Scheduler:
    if config["disable_corrector"] not in ([], "[]") or config["solver_p"] is not None:
        raise ValueError(f"{name} with disable_corrector or solver_p is not read")
    prediction = "data" if config["predict_x0"] else "noise"
    more = {"prediction": prediction, "variant": config["solver_type"]}
    return _multistep(name, config, lambda n: (solvers.unipc, _orders(config, n, True) | more))


def _deis(name: str, config: Config) -> Scheduler:
    if config["solver_type"] != "logrho" or config["algorithm_type"] != "deis":
        raise ValueError(f"{name} is read with algorithm_type deis and solver_type logrho only")
    more = {"variable": "log_level"}
    return _multistep(name, config, lambda n: (solvers.deis, _orders(config, n) | more))


def _interpolating(solver: Any, **options: Any) -> Callable[[str, Config], Scheduler]:
    """Return the reader of a class of k-diffusion."""

    def read(name: str, config: Config) -> Scheduler:
        if config.get("timestep_type", "discrete") != "discrete":
            raise ValueError(f"{name} with timestep_type {config['timestep_type']!r} is not read")
        if config.get("interpolation_type", "linear") != "linear":
            raise ValueError(f"{name}: interpolation_type is read as linear only")
        products = discrete(config, LARGE)
        clip = config["clip_sample_range"] if config.get("clip_sample") else None
        return discrete_scheduler(
            name, config, products,
            plan=lambda n: Plan(solver, grid_between_timesteps(config, products, n), options),
            label=label_of_level(name, config, products, rounded=False),
            unit_start=config["timestep_spacing"] == "leading",
            clip=clip if "Heun" in name else None,
        )  # fmt: skip

    return read


# Classes of continuous models


def _edm(name: str, config: Config) -> Scheduler:
    low, high, rho = config["sigma_min"], config["sigma_max"], config["rho"]
    if config["prediction_type"] != "epsilon":
        raise ValueError(f"{name}: prediction_type {config['prediction_type']!r} is not read")
    if config["sigma_schedule"] not in ("karras", "exponential") or config.get("euler_at_final"):
        raise ValueError(f"{name}: sigma_schedule and euler_at_final are read as by default only")
    multistep, zero = name != "EDMEulerScheduler", config["final_sigmas_type"] == "zero"
    more = {"rho": rho} if config["sigma_schedule"] == "karras" else {}
    maker = grids.karras if more else grids.exponential

    def make(num_steps: int) -> Plan:
        levels = maker(max(num_steps - (not zero), 1), low, high, zero=zero, **more)[:num_steps]
        levels = np.append(levels, 0.0 if zero else levels[-1] * NEXT)
        if not multistep:
            return Plan(solvers.euler, levels, {})
        second = "exact" if config["solver_type"] == "heun" else "midpoint"
        return Plan(
            solvers.dpmpp,
            levels,
            _orders(config, num_steps) | {"second": second, "reference": True},
        )

    return Scheduler(
        name, EDM(), "edm", None, make, False, None, None, config, config["sigma_data"]
    )


def _flow(name: str, config: Config) -> Scheduler:
    for field in ("invert_sigmas", "shift_terminal", "stochastic_sampling"):
        if config.get(field):
            raise ValueError(f"{name} with {field} is not read")
    if special_spacing(config, 2, 0.1, 0.9) is not None:
        raise ValueError(f"{name} with Karras, exponential or Beta spacing is not read")
    shift, count = config["shift"], config["num_train_timesteps"]
    dynamic = config.get("use_dynamic_shifting")
    shifted = lambda t, by: by * t / (1 + (by - 1) * t)  # noqa: E731

    def make(num_steps: int, tokens: int | None = None) -> Plan:
        if dynamic and tokens is None:
            raise ValueError(
                f"{name}: the shift depends on the number of tokens of an image "
                "(use_dynamic_shifting): take scheduler.at_size(tokens)"
            )
        if tokens is not None:
            shift_of = (config["base_image_seq_len"], config["base_shift"]), (
                config["max_image_seq_len"], config["max_shift"]
            )  # fmt: skip
            by = grids.resolution_shift(tokens, *shift_of)
            times = shifted(np.linspace(1, 1 / num_steps, num_steps), by)
        else:
            low = shifted(1 / count, shift)  # the class shifts its ends, then the grid
            times = shifted(np.linspace(1, low, num_steps), shift)
        times = np.minimum(times, 1 - 1e-9)
        return Plan(solvers.euler, np.append(times / (1 - times), 0.0), {})

    process: Any = RectifiedFlow()
    return Scheduler(name, process, "flow", TimesLabel(count), make, True, None, None, config)


DPM: Config = {
    **SMALL_BETAS, **LINSPACE, "solver_order": 2, "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint", "lower_order_final": True,
}  # fmt: skip
CLASSES: dict[str, tuple[Config, Callable[[str, Config], Scheduler]]] = {
    "DDIMScheduler": (
        {**SMALL_BETAS, **LEADING, "clip_sample": True, "set_alpha_to_one": True}, _ddim
    ),
    "DDPMScheduler": (
        {**SMALL_BETAS, **LEADING, "clip_sample": True, "variance_type": "fixed_small"}, _ddpm
    ),
    "PNDMScheduler": (
        {**SMALL_BETAS, **LEADING, "skip_prk_steps": False, "set_alpha_to_one": False}, _pndm
    ),
    "DPMSolverMultistepScheduler": (DPM, _dpm_multistep),
    "DPMSolverSinglestepScheduler": ({**DPM, "lower_order_final": False}, _dpm_singlestep),
    "UniPCMultistepScheduler": (
        {**DPM, "predict_x0": True, "solver_type": "bh2", "disable_corrector": [],
         "solver_p": None}, _unipc,
    ),
    "DEISMultistepScheduler": (
        {**DPM, "algorithm_type": "deis", "solver_type": "logrho",
         "final_sigmas_type": "sigma_min"}, _deis,
    ),
    "EulerDiscreteScheduler": ({**SMALL_BETAS, **LINSPACE}, _interpolating(solvers.euler)),
    "EulerAncestralDiscreteScheduler": (
        {**SMALL_BETAS, **LINSPACE}, _interpolating(solvers.ddim, eta=1.0)
    ),
    "HeunDiscreteScheduler": ({**KARRAS_BETAS, **LINSPACE}, _interpolating(solvers.heun)),
    "LMSDiscreteScheduler": ({**SMALL_BETAS, **LINSPACE}, _interpolating(solvers.lms, order=4)),
    "KDPM2DiscreteScheduler": ({**KARRAS_BETAS, **LINSPACE}, _interpolating(solvers.dpm2)),
    "KDPM2AncestralDiscreteScheduler": (
        {**KARRAS_BETAS, **LINSPACE}, _interpolating(solvers.dpm2_ancestral)
    ),
    "EDMEulerScheduler": (
        {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0,
         "sigma_schedule": "karras"}, _edm,
    ),
    "EDMDPMSolverMultistepScheduler": (
        {**DPM, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0,
         "sigma_schedule": "karras"}, _edm,
    ),
    "FlowMatchEulerDiscreteScheduler": (
        {"shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5, "max_shift": 1.15,
         "base_image_seq_len": 256, "max_image_seq_len": 4096}, _flow,
    ),
    **FEW_STEP,
}  # fmt: skip


def read_scheduler(config: Config) -> Scheduler:
    """Return what a scheduler_config.json says.

    Raises:
        ValueError: naming the class or the field, for one that is not read.
    """
    name = str(config.get("_class_name", "")).removeprefix("Flax")
    if name not in CLASSES:
        raise ValueError(f"the scheduler {name!r:.60} is not read; known are {', '.join(CLASSES)}")
    defaults, make = CLASSES[name]
    return make(name, {**COMMON, **defaults, **config})
