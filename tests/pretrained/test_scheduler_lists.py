"""Tables as the lists that diffusers' schedulers take, and the refusal of those that are none."""

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.pretrained.scheduler_lists import _coefficients, scheduler_lists
from jaxdiff.pretrained.schedulers import read_scheduler

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(name, **config):
    return read_scheduler({"_class_name": name, **config})


def test_levels_of_euler_are_its_sigmas():
    levels = [14.6, 5.0, 1.0, 0.2, 0.0]
    made = scheduler_lists(
        jd.table(jd.solvers.euler, levels), scheduler("EulerDiscreteScheduler", **SD)
    )
    assert made == {"scheduler": "EulerDiscreteScheduler", "sigmas": levels, "error": 0.0}


def test_levels_of_dpm_solver_are_moved_to_timesteps():
    own = scheduler("DPMSolverMultistepScheduler", timestep_spacing="trailing", **SD)
    made = scheduler_lists(own.table(6), own)
    assert made["timesteps"] == [999, 832, 666, 499, 332, 166] and made["error"] < 1e-6
    moved = np.array(own.grid(6)) * [1, 1.002, 1, 1, 1, 1, 1]
    tuned = jd.table(jd.solvers.dpmpp, moved, order=2, reference=True)
    again = scheduler_lists(tuned, own, tolerance=0.02)
    assert again["timesteps"] == made["timesteps"] and 1e-4 < again["error"] < 0.02


def test_times_of_a_flow_are_labels_before_its_shift():
    own = scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)
    levels = np.array([1e9, 4.0, 1.0, 0.25, 0.0])
    times = np.array(scheduler_lists(jd.table(jd.solvers.euler, levels), own)["sigmas"])
    shifted = 3 * times / (1 + 2 * times)
    np.testing.assert_allclose(shifted / (1 - shifted), levels[:-1], rtol=1e-6)


def test_coefficients_are_the_sampler_as_a_linear_map(rng=np.random.default_rng(0)):
    levels = jd.grids.karras(5)
    outputs, start = rng.standard_normal((5, 3)), rng.standard_normal(3)
    given = iter(outputs)
    *_, last = jd.solvers.unipc(lambda y, s: next(given), start, levels.tolist(), order=2)
    matrix = _coefficients(jd.table(jd.solvers.unipc, levels, order=2))
    np.testing.assert_allclose(matrix[-1] @ np.vstack([start, outputs]), last, rtol=1e-10)


def test_what_no_list_says_is_refused_with_the_difference():
    euler = scheduler("EulerDiscreteScheduler", **SD)
    levels = jd.grids.karras(6, 0.03, 14.6)
    with pytest.raises(ValueError, match=r"differ by 1\.\d+ of the largest \(allowed: 0.001\)"):
        scheduler_lists(jd.table(jd.solvers.unipc, levels), euler)
    with pytest.raises(ValueError, match="differ by inf"):
        scheduler_lists(jd.table(jd.solvers.heun, levels), euler)
    with pytest.raises(ValueError, match="stochastic"):
        scheduler_lists(jd.table(jd.solvers.ddim, levels), euler)
    with pytest.raises(ValueError, match="UniPCMultistepScheduler takes no list"):
        scheduler_lists(
            jd.table(jd.solvers.euler, levels), scheduler("UniPCMultistepScheduler", **SD)
        )
    dpm = scheduler("DPMSolverMultistepScheduler", **SD)
    with pytest.raises(ValueError, match="not at timesteps of their own"):
        scheduler_lists(jd.table(jd.solvers.dpmpp, [14.6, 14.599, 1.0, 0.0]), dpm)
