"""Defaults of methods are their published recipes, by numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.distill.consistency.consistency import easy_consistency
from jaxdiff.distill.flow_map.mean_flow import improved_mean_flow, mean_flow
from jaxdiff.distill.flow_map.times import flow_map_tables, logit_normal_pairs, within
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.piecewise_flow import perflow, window_table
from jaxdiff.distill.trajectory.tract import tract
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.process import VP, RectifiedFlow


@pytest.fixture(autouse=True)
def as_users_train():
    """In single precision, with JAX's default promotion, which optax needs."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


PARAMS = {"scale": np.float32(0.5)}


def network(params, x, label, cond=None, *, key=None):
    return params["scale"] * x


STUDENT = Student(network, PARAMS)


def updates(method, gradients):
    """What the student's optimiser makes of gradients, one after the other."""
    optimiser: optax.GradientTransformation = method.players["student"].optimiser
    state, found = optimiser.init(PARAMS), []
    for gradient in gradients:
        update, state = optimiser.update({"scale": jnp.float32(gradient)}, state, PARAMS)
        found.append(float(update["scale"]))
    return found


def test_easy_consistency_has_stages_of_25_000_updates():
    method = easy_consistency(STUDENT, mean=3.0)  # levels at which r is not 0
    batch = {"image": jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)}

    def loss(step):
        context = Context(jnp.asarray(step), {}, {}, method.frozen)
        return method.players["student"].loss(PARAMS, context, batch, jax.random.key(0))[0]

    assert loss(24_999) == loss(0) != loss(25_000)


def test_tract_does_not_clip_gradients():
    # Adam after gradients 100 and 1: m = 9.1/0.19, v = 9.991/0.001999
    method = tract(Gaussian(jnp.zeros(2), jnp.ones(2)).denoiser, STUDENT)
    expected = -1e-3 * (9.1 / 0.19) / np.sqrt(9.991 / 0.001999)
    np.testing.assert_allclose(updates(method, [100.0, 1.0])[1], expected, rtol=1e-4)


def test_perflow_divides_the_time_of_the_model_and_decays_weights_by_a_hundredth():
    D = Gaussian(jnp.zeros(2), jnp.ones(2)).denoiser
    (decay,) = updates(perflow(D, STUDENT), [0.0])
    np.testing.assert_allclose(decay, -8e-5 * 0.01 * 0.5, rtol=1e-6)
    vp = VP()
    recorded = STUDENT._replace(prediction="eps", process=vp, high=50.0)
    made = perflow(D, recorded, windows=4).sampler
    state = type("State", (), {"params": {"student": PARAMS}})()
    np.testing.assert_allclose(
        made(state, num_steps=4).table.levels, window_table(recorded, 4, 4, vp).levels, rtol=1e-6
    )


@pytest.mark.parametrize(
    "make, rate, warm, b2",
    [(mean_flow, 6e-4, 10_000, 0.999), (improved_mean_flow, 1e-4, 12_500, 0.95)],
)
def test_mean_flows_are_warmed_up(make, rate, warm, b2):
    # gradients 1 and 3: the first update is of rate 0, the second of rate/warm, with m = (.09 + .3)
    # /.19 and v = (b2 + 9)(1 - b2)/(1 - b2^2)
    first, second = updates(make(STUDENT), [1.0, 3.0])
    m, v = 0.39 / 0.19, (b2 + 9) / (1 + b2)
    assert first == 0.0
    np.testing.assert_allclose(second, -rate / warm * m / np.sqrt(v), rtol=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_times_of_mean_flow_reach_0_and_1_as_labels(share):
    recorded = STUDENT._replace(prediction="flow", process=RectifiedFlow(), low=0.0, high=1e6)
    t, r = logit_normal_pairs(unequal=share)(jax.random.key(0), jnp.zeros(20_000))
    t_kept, r_kept = within(recorded, t, r)
    np.testing.assert_allclose(t_kept, t, rtol=1e-6)
    np.testing.assert_array_equal(r_kept, r)
    assert t.max() > 0.99 and 0 < r.min() < 0.001
    assert abs(float(jnp.mean(t != r)) - share) < 0.01
    made = flow_map_tables(recorded)(1)
    assert float(made.levels[-1]) == 0.0
