"""What a scheduler's configuration says beside its steps: ranges, shifts, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids
from jaxdiff.pretrained.schedulers import read_scheduler

Y = jnp.asarray(np.linspace(-3, 3, 7, dtype=np.float32))[None]


def scheduler(name, **config):
    return read_scheduler({"_class_name": name, **config})


def plain(y, level, cond=None):
    return y


@pytest.mark.parametrize(
    "name, config, wanted",
    [
        ("DDPMScheduler", {}, np.clip(Y, -1, 1)),  # clip_sample is its default
        ("DDPMScheduler", {"clip_sample": False}, Y),
        ("DDIMScheduler", {}, Y),  # its plan clips
        ("DPMSolverMultistepScheduler", {"thresholding": True}, np.clip(Y, -1, 1)),
        ("DPMSolverMultistepScheduler", {"thresholding": True, "sample_max_value": 2.0},
         np.clip(Y, -2, 2) / 2),
        ("DPMSolverMultistepScheduler",
         {"thresholding": True, "sample_max_value": 9.0, "dynamic_thresholding_ratio": 1.0}, Y / 3),
    ],
)  # fmt: skip
def test_outputs_are_kept_in_the_range_of_the_class(name, config, wanted):
    own = scheduler(name, **config)
    np.testing.assert_allclose(own.thresholded(plain)(Y, 1.0), wanted, rtol=1e-6)
    assert ("thresholded" in repr(own)) == (own.clip is not None or own.quantile is not None)


def test_a_shift_that_depends_on_the_size_asks_for_it():
    own = scheduler("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    with pytest.raises(ValueError, match=r"at_size\(tokens\)"):
        own.grid(4)
    wanted = grids.flow(4, shift=grids.resolution_shift(4096), start=1 - 1e-9, end=0.25)
    np.testing.assert_allclose(own.at_size(4096).grid(4)[1:], wanted[1:], rtol=1e-6)
    fixed = scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)
    assert fixed.at_size(4096) is fixed


@pytest.mark.parametrize(
    "config, message",
    [
        ({"_class_name": "RePaintScheduler"}, "RePaintScheduler"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "x"}, "prediction_type 'x'"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
    ],
)
def test_what_is_not_read_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        read_scheduler(config)


def test_steps_of_few_step_classes_by_hand():
    lcm, tcd = scheduler("LCMScheduler"), scheduler("TCDScheduler")
    products = np.exp(2 * np.asarray(lcm.process.log_alphas))
    at = lambda k: np.sqrt(1 / products[k] - 1)  # noqa: E731
    np.testing.assert_allclose(lcm.grid(3), [*at([999, 679, 339]), 0], rtol=1e-5)  # 50 // 3 apart
    np.testing.assert_allclose(tcd.grid(3), at([999, 679, 339, 0]), rtol=1e-5)
    np.testing.assert_allclose(tcd.plan(3).options["lower"], at([475, 237, 0]), rtol=1e-5)
    skip, out = (lcm.plan(1).options[k][0] for k in ("skip", "out"))
    assert skip == pytest.approx(np.sqrt(products[999]) * 0.25 / (9990**2 + 0.25), rel=1e-5)
    assert out == pytest.approx(9990 / np.sqrt(9990**2 + 0.25), rel=1e-12)
    assert lcm.table(4).nfe == 4 and lcm.table(4).stochastic and tcd.table(4).nfe == 4
    assert "clips D" in repr(scheduler("LCMScheduler", clip_sample=True))


def test_levels_of_consistency_models_are_every_so_many_of_karras():
    own = scheduler("CMStochasticIterativeScheduler")
    known = grids.karras(39, zero=False)
    np.testing.assert_allclose(own.grid(3), [*known[[0, 13, 26]], 0.002])
    np.testing.assert_allclose(own.grid(40), known)  # the end itself is no step
    assert own.table(1).nfe == 1 and own.start_scale(1) == 80.0
    assert float(own.label(jnp.float32(np.e))) == pytest.approx(250.0)
    assert own.sigma_min == 0.002 and own.clip == 1.0


@pytest.mark.parametrize(
    "name, config, steps, message",
    [
        ("LCMScheduler", {}, 51, "1 to 50 steps, not 51"),
        ("TCDScheduler", {"original_inference_steps": 2000}, 4, "must be 1 to 1000, not 2000"),
        ("TCDScheduler", {"clip_sample": True}, 4, "clip_sample is not read"),
        ("CMStochasticIterativeScheduler", {}, 41, "1 to 40 steps, not 41"),
        ("CMStochasticIterativeScheduler", {"s_noise": 0.5}, 4, "s_noise is read as 1 only"),
    ],
)
def test_few_step_classes_refuse_what_they_do_not_have(name, config, steps, message):
    with pytest.raises(ValueError, match=message):
        scheduler(name, **config).plan(steps)
