"""Solvers and grids against the schedulers of diffusers: every state that is evaluated, the last
one, levels and counts.

A scheduler is three things here: a solver, a grid, and the frame its states are in. States of a
variance-preserving frame are alpha times ours. LCM, TCD and consistency-model schedulers (15) are
in test_stochastic, the inverse of DDIM (1) in test_inversion.

Where a scheduler ends on the level it is already at, its last evaluation is spent on a step of
length zero: the grid here does not have that step.
"""

import functools
import inspect

import numpy as np
import pytest
from golden_numbers import Counted, load, teacher

from jaxdiff import grids, solvers
from jaxdiff.process import Discrete, linear_betas, scaled_linear_betas
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.multistep import pndm
from jaxdiff.solvers.planning import plan, plan_orders
from jaxdiff.solvers.singlestep import dpm_solver

ELSEWHERE = {
    "LCMScheduler": 6,
    "TCDScheduler": 6,
    "CMStochasticIterativeScheduler": 3,
    "DDIMInverseScheduler": 1,
}
FLOW = "FlowMatchEulerDiscreteScheduler"
PROCESSES = {
    "sd": Discrete.from_betas(scaled_linear_betas(1000)),
    "ddpm": Discrete.from_betas(linear_betas(1000)),
}


def in_timesteps(case, spacing="leading", zero=True):
    """Grid of the schedulers that never leave the integer timesteps."""
    config = case["config"]
    chosen = grids.timesteps(
        case["num_inference_steps"],
        config.get("timestep_spacing", spacing),
        offset=config.get("steps_offset", 0),
    )
    if not zero:
        chosen = np.unique([*chosen, 0])[::-1]
    return grids.of_timesteps(PROCESSES[case["betas"]], chosen, zero=zero)


def in_levels(case, spacing="linspace"):
    """Grid of the schedulers that work in levels: equally spaced timesteps, Karras or log-linear
    levels, and an end at 0 or at the lowest level.
    """
    config, n = case["config"], case["num_inference_steps"]
    own = PROCESSES[case["betas"]]
    high, low = grids.of_timesteps(own, [999, 0], zero=False)
    ending = config.get("final_sigmas_type", "sigma_min" if "DEIS" in case["scheduler"] else "zero")
    if config.get("use_karras_sigmas"):
        return (
            grids.karras(n, low, high)
            if ending == "zero"
            else grids.karras(n - 1, low, high, zero=False)
        )
    if config.get("use_lu_lambdas"):
        return grids.exponential(n, low, high)
    every = grids.timesteps(n + 1, config.get("timestep_spacing", spacing))
    grid = grids.of_timesteps(own, every[:-1])
    return grid if ending == "zero" else np.append(grid[:-1], low)


def in_sigmas(case):
    """Grid of the schedulers that interpolate the levels themselves between timesteps."""
    if case["config"].get("use_karras_sigmas"):
        return in_levels(case)
    n = case["num_inference_steps"]
    if case["config"].get("timestep_spacing") == "trailing":
        return in_timesteps(case)
    levels = grids.of_timesteps(PROCESSES[case["betas"]], np.arange(1000)[::-1], zero=False)[::-1]
    return np.append(np.interp(np.linspace(999, 0, n), np.arange(1000), levels), 0.0)


def edm_grid(case):
    config, n = case["config"], case["num_inference_steps"]
    maker = grids.exponential if config.get("sigma_schedule") == "exponential" else grids.karras
    zero = config.get("final_sigmas_type", "zero") == "zero"
    return maker(n) if zero else maker(n - 1, zero=False)


def flow_grid(case):
    shift = case["config"]["shift"]
    end = shift * 1e-3 / (1 + (shift - 1) * 1e-3)  # the peer shifts its ends, then the grid
    return grids.flow(case["num_inference_steps"], shift=shift, start=1 - 1e-9, end=end)


def orders(case):
    config = case["config"]
    return {
        "order": config["solver_order"],
        "lower_final": config.get("lower_order_final", True),
    }


def ddim(case):
    eta, clip = case["step_kwargs"].get("eta", 0.0), case["config"].get("clip_sample")
    solver, options = (solvers.ddim, {"eta": eta}) if eta else (solvers.euler, {})
    if clip:
        solver, options = solvers.ddim, {"eta": eta, "clip": case["config"]["clip_sample_range"]}
    zero = case["config"].get("set_alpha_to_one", True)
    return solver, options, in_timesteps(case, zero=zero)


def ddpm(case):
    variance = case["config"]["variance_type"].removeprefix("fixed_")
    return solvers.ddpm, {"variance": variance}, in_timesteps(case)


def dpm_multistep(case):
    config, levels = case["config"], in_levels(case)
    second = "exact" if config.get("solver_type") == "heun" else "midpoint"
    if config["algorithm_type"] == "sde-dpmsolver++":
        return solvers.sde_dpmpp, {"order": config["solver_order"]}, levels
    prediction = "data" if config["algorithm_type"] == "dpmsolver++" else "noise"
    options = orders(case) | {"prediction": prediction, "second": second, "reference": True}
    return solvers.dpmpp, options, levels


def dpm_singlestep(case):
    *full, last = plan_orders(case["num_inference_steps"], case["config"]["solver_order"])
    steps = plan(in_levels(case), orders=[*full, *[1] * last])  # nothing but order 1 to level 0
    options = {"orders": steps.orders, "ratios": steps.ratios, "reference": True}
    return dpm_solver, {"prediction": "data"} | options, steps.levels


def edm_dpm(case):
    config = case["config"]
    second = "exact" if config.get("solver_type") == "heun" else "midpoint"
    options = orders(case) | {"second": second, "reference": True}
    if config.get("final_sigmas_type") == "sigma_min":
        options["lower_final"] = False  # the step of lower order is the one of length zero
    return solvers.dpmpp, options, edm_grid(case)


def unipc(case):
    config = case["config"]
    prediction = "data" if config.get("predict_x0", True) else "noise"
    options = orders(case) | {"prediction": prediction, "variant": config["solver_type"]}
    return solvers.unipc, options, in_levels(case)


def deis(case):
    return solvers.deis, orders(case) | {"variable": "log_level"}, in_levels(case)


def plms(case):
    levels = in_timesteps(case, zero=False)
    if case["config"]["skip_prk_steps"]:
        return pndm, {"warm_up": "heun"}, levels
    n = case["num_inference_steps"]
    starts = grids.timesteps(n, "leading")[:3]
    middles = grids.of_timesteps(PROCESSES[case["betas"]], starts - 1000 // n // 2)[:-1]
    return pndm, {"middles": middles.tolist()}, levels


def plain(solver, **options):
    return lambda case: (solver, options, in_sigmas(case))


MAKERS = {
    "DDIMScheduler": ddim,
    "DDPMScheduler": ddpm,
    "DPMSolverMultistepScheduler": dpm_multistep,
    "DPMSolverSinglestepScheduler": dpm_singlestep,
    "EDMDPMSolverMultistepScheduler": edm_dpm,
    "UniPCMultistepScheduler": unipc,
    "DEISMultistepScheduler": deis,
    "PNDMScheduler": plms,
    "EulerDiscreteScheduler": plain(solvers.euler),
    "HeunDiscreteScheduler": plain(solvers.heun),
    "LMSDiscreteScheduler": plain(solvers.lms, order=4),
    "KDPM2DiscreteScheduler": plain(solvers.dpm2),
    "EulerAncestralDiscreteScheduler": plain(solvers.ddim, eta=1.0),
    "EDMEulerScheduler": lambda case: (solvers.euler, {}, edm_grid(case)),
    FLOW: lambda case: (solvers.euler, {}, flow_grid(case)),
}
IN_LEVELS = (
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
)
EXPECTED = 255


def scale(case, level):
    """The factor from our states to the scheduler's."""
    if case["scheduler"] in IN_LEVELS:
        return 1.0
    if case["scheduler"] == FLOW:
        return 1 / (1 + level)
    return 1 / np.sqrt(1 + level**2)


@functools.cache
def covered(scheduler):
    cases = [c for c in load("solvers_diffusers").cases if c["scheduler"] == scheduler]
    return [(case, MAKERS[scheduler](case)) for case in cases]


def start(case, levels):
    """z times the scheduler's first level or, in a variance-preserving frame, z."""
    z = load("teacher")["z"]
    return z * levels[0] if case["scheduler"] in IN_LEVELS else z / scale(case, levels[0])


def noises(numbers, case, solver):
    if "noise" not in inspect.signature(solver).parameters:
        return {}
    recorded = iter(numbers.get(case, "noise") if "noise" in case["arrays"] else ())
    return {"noise": lambda: next(recorded)}


def run(numbers, case, made):
    """Evaluated states, their levels and the last state, in the scheduler's frame."""
    solver, options, levels = made
    exact, levels = teacher(case["mixture"]), [float(s) for s in levels]
    D = Counted(lambda y, s: exact(np.asarray(y), s))
    extra = noises(numbers, case, solver) | options
    if case["scheduler"] == "DDIMScheduler":
        *_, last = steps_of_equal_length(numbers, case, D, solver, levels, extra)
    else:
        *_, last = solver(D, start(case, levels), levels, **extra)
    states = [scale(case, s) * y[:4] for y, s in zip(D.states, D.levels, strict=True)]
    return np.stack(states), np.array(D.levels), scale(case, levels[-1]) * last


def steps_of_equal_length(numbers, case, D, solver, levels, options):
    """The peer's DDIM always steps by 1000 // n timesteps. Where its grid does not, the next
    evaluation takes the state, in its own frame, to be of another level than the step went to.
    """
    config, n = case["config"], case["num_inference_steps"]
    own, y = PROCESSES[case["betas"]], start(case, levels)
    for i, k in enumerate(numbers.get(case, "timesteps")):
        if k >= 1000 // n:
            arrived = grids.of_timesteps(own, [k - 1000 // n])[0]
        else:
            arrived = 0.0 if config.get("set_alpha_to_one", True) else levels[-1]
        (y,) = solver(D, y, [levels[i], arrived], **options)
        y = y * (scale(case, arrived) / scale(case, levels[i + 1]))
        yield y


def peer_levels(numbers, case):
    """Levels of the scheduler's evaluations; for flow models times."""
    if "alpha_sigma_at_eval" not in case["arrays"]:
        return numbers.get(case, "eval_sigmas")
    alpha, sigma = numbers.get(case, "alpha_sigma_at_eval").T
    return sigma / alpha


@pytest.mark.parametrize("scheduler", MAKERS)
def test_every_evaluation(scheduler):
    """Levels, states and number of evaluations, and the last state, on our own grids."""
    numbers = load("solvers_diffusers")
    error = 1e-6 if scheduler == FLOW else 1e-9  # rounding at 1e9, the level of tau = 1
    assert covered(scheduler)
    for case, made in covered(scheduler):
        states, levels, last = run(numbers, case, made)
        theirs, n = peer_levels(numbers, case), len(levels)
        idle = bool(np.isclose(theirs[-1], made[2][-1]))  # a last step of length zero
        assert n + idle == case["nfe"], case["id"]
        if scheduler == FLOW:
            levels = levels / (1 + levels)
        np.testing.assert_allclose(levels, theirs[:n], rtol=error, err_msg=case["id"])
        if "traj" in case["arrays"]:  # not in the committed subset
            traj = numbers.get(case, "traj")[:n]
            np.testing.assert_allclose(states, traj, rtol=error, atol=error, err_msg=case["id"])
        if case["config"].get("variance_type") == "fixed_large":  # it adds noise to the end
            last = last + levels[-1] * scale(case, levels[-1]) * numbers.get(case, "noise")[-1]
        np.testing.assert_allclose(
            last, numbers.get(case, "final"), rtol=error, atol=error, err_msg=case["id"]
        )


@pytest.mark.parametrize("betas", PROCESSES)
def test_betas_are_the_peer_s(betas):
    numbers = load("solvers_diffusers", full=True)
    ours = np.exp(2 * np.asarray(PROCESSES[betas].log_alphas))
    np.testing.assert_allclose(ours, numbers[f"alphas_cumprod/{betas}"], rtol=1e-9)


def test_every_case_that_a_solver_covers_is_covered():
    numbers = load("solvers_diffusers", full=True)
    cases = [case for name in MAKERS for case, _ in covered(name)]
    assert len(cases) == EXPECTED == len(numbers.cases) - sum(ELSEWHERE.values())


FAILED_IN_PEER = [
    {"order": order, "variant": variant, "lower_final": lower_final}
    for order in (1, 2, 3)
    for variant in ("bh1", "bh2", "vary")
    for lower_final in (True, False)
]


@pytest.mark.parametrize("options", FAILED_IN_PEER, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 11])
def test_what_fails_in_the_peer_is_right_here(options, steps):
    """UniPC to level 0, where the peer has NaN or a singular matrix: the last step denoises, all
    others are those of the grid that ends above 0.
    """
    levels = grids.karras(steps, 0.03, 14.6).tolist()
    D = teacher()
    *others, last = solvers.unipc(D, load("teacher")["z"] * levels[0], levels, **options)
    made = table(solvers.unipc, levels, **options)
    assert made.nfe == steps and np.isfinite(last).all()
    assert all(np.isfinite(a).all() for a in (made.states, made.denoised))
    assert np.abs(last).max() < 2  # the data are within about 1
    if steps > 1 and not options["lower_final"]:
        longer = [*levels[:-1], 1e-3]
        same = list(solvers.unipc(D, load("teacher")["z"] * levels[0], longer, **options))
        np.testing.assert_allclose(others[:-1], same[: steps - 2], rtol=1e-12)
