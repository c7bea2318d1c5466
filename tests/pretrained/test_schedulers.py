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
        ({"_class_name": "LCMScheduler"}, "LCMScheduler"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "x"}, "prediction_type 'x'"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
    ],
)
def test_what_is_not_read_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        read_scheduler(config)
