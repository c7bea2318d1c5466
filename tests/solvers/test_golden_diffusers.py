"""Solvers and grids against the schedulers of diffusers: every state that is evaluated, the last
one, levels and counts.

A scheduler is three things here: a solver, a grid, and the frame its states are in. States of a
variance-preserving frame are alpha times ours. LCM, TCD and consistency-model schedulers (15) are
in test_stochastic, the inverse of DDIM (1) in test_inversion.

The three come from :func:`jaxdiff.pretrained.schedulers.read_scheduler`.
"""

import functools
import inspect

import numpy as np
import pytest
from helpers.golden_numbers import Counted, load, teacher

from jaxdiff import grids, solvers
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.sampling.trace import table

ELSEWHERE = {
    "LCMScheduler": 6,
    "TCDScheduler": 6,
    "CMStochasticIterativeScheduler": 3,
    "DDIMInverseScheduler": 1,
}
FLOW = "FlowMatchEulerDiscreteScheduler"
BETAS = {
    "sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "ddpm": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
}
COVERED = {
    "DDIMScheduler": 18, "DDPMScheduler": 6, "DPMSolverMultistepScheduler": 87,
    "DPMSolverSinglestepScheduler": 9, "EDMDPMSolverMultistepScheduler": 12,
    "UniPCMultistepScheduler": 48, "DEISMultistepScheduler": 18, "PNDMScheduler": 6,
    "EulerDiscreteScheduler": 9, "HeunDiscreteScheduler": 9, "LMSDiscreteScheduler": 9,
    "KDPM2DiscreteScheduler": 9, "EulerAncestralDiscreteScheduler": 3, "EDMEulerScheduler": 6,
    FLOW: 6,
}  # fmt: skip
IN_LEVELS = (
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
)


def scheduler_of(case):
    config = BETAS.get(case.get("betas"), {}) | case["config"]
    return read_scheduler({"_class_name": case["scheduler"], "clip_sample": False} | config)


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
    return [(case, scheduler_of(case).plan(case["num_inference_steps"])) for case in cases]


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
    solver, levels, options = made.solver, [float(s) for s in made.levels], dict(made.options)
    exact = teacher(case["mixture"])
    D = Counted(lambda y, s: exact(np.asarray(y), s))
    if eta := case.get("step_kwargs", {}).get("eta", 0.0):  # not of a configuration, but of a call
        ends, clip = options.get("arrivals", levels[1:]), options.get("clip")
        extra = noises(numbers, case, solvers.ddim) | {"eta": eta, "clip": clip}
        last = start(case, levels)
        for s, r, end in zip(levels, levels[1:], ends, strict=False):
            (last,) = solvers.ddim(D, last, [s, end], **extra)
            last = last * (scale(case, end) / scale(case, r))
    else:
        extra = noises(numbers, case, solver) | options
        *_, last = solver(D, start(case, levels), levels, **extra)
    states = [scale(case, s) * y[:4] for y, s in zip(D.states, D.levels, strict=True)]
    return np.stack(states), np.array(D.levels), scale(case, levels[-1]) * last


def peer_levels(numbers, case):
    """Levels of the scheduler's evaluations; for flow models times."""
    if "alpha_sigma_at_eval" not in case["arrays"]:
        return numbers.get(case, "eval_sigmas")
    alpha, sigma = numbers.get(case, "alpha_sigma_at_eval").T
    return sigma / alpha


@pytest.mark.parametrize("scheduler", COVERED)
def test_every_evaluation(scheduler):
    """Levels, states and number of evaluations, and the last state, on our own grids."""
    numbers = load("solvers_diffusers")
    error = 1e-6 if scheduler == FLOW else 1e-9  # rounding at 1e9, the level of tau = 1
    assert covered(scheduler)
    for case, made in covered(scheduler):
        states, levels, last = run(numbers, case, made)
        theirs, n = peer_levels(numbers, case), len(levels)
        if n != case["nfe"]:  # a last step of length zero, which is not taken
            assert n + 1 == case["nfe"] and np.isclose(theirs[-1], made.levels[-1]), case["id"]
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


@pytest.mark.parametrize("betas", BETAS)
def test_betas_are_the_peer_s(betas):
    numbers = load("solvers_diffusers", full=True)
    process = read_scheduler({"_class_name": "DDIMScheduler"} | BETAS[betas]).process
    ours = np.exp(2 * np.asarray(process.log_alphas))
    np.testing.assert_allclose(ours, numbers[f"alphas_cumprod/{betas}"], rtol=1e-9)


def test_every_case_that_a_solver_covers_is_covered():
    numbers = load("solvers_diffusers", full=True)
    assert {name: len(covered(name)) for name in COVERED} == COVERED
    assert sum(COVERED.values()) == len(numbers.cases) - sum(ELSEWHERE.values())


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
