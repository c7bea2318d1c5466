import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import process as pr

SD = np.cumprod(1 - pr.scaled_linear_betas(20, 0.01, 0.3))
PROCESSES = {
    "edm": pr.EDM(),
    "ve": pr.VE(),
    "vp": pr.VP(),
    "sub_vp": pr.SubVP(),
    "cosine": pr.Cosine(),
    "flow": pr.RectifiedFlow(),
    "trig": pr.TrigFlow(sigma_data=0.5),
    "discrete": pr.Discrete(SD),
    "discrete_zero_snr": pr.Discrete(pr.zero_terminal_snr(SD)),
}
each = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@jax.jit
def evaluate(process, t):
    """Everything a process says at times t."""
    return {
        "alpha": process.alpha(t),
        "sigma": process.sigma(t),
        "level": pr.level(process, t),
        "log_snr": pr.log_snr(process, t),
        "rates": jnp.stack(pr.rates(process, t)),
        "drift": pr.drift(process, t),
        "diffusion": pr.diffusion(process, t),
        "back": pr.time(process, pr.level(process, t)),
    }


@jax.jit
def invert(process, levels):
    """Times at levels, with two derivatives."""
    slope = jax.vmap(jax.grad(pr.time, argnums=1), (None, 0))
    curvature = jax.vmap(jax.grad(jax.grad(pr.time, argnums=1), argnums=1), (None, 0))
    return pr.time(process, levels), slope(process, levels), curvature(process, levels)


inverse = jax.jit(pr.time)


def inner_times(process, count=23):
    """Times inside (0, t_max), none at a knot of the tables or where these are still clean."""
    return np.linspace(0.034, 0.987, count) * process.t_max


def say(process, t=None):
    """``evaluate`` with times padded to one length, so that every process is compiled once."""
    t = inner_times(process) if t is None else t
    said = evaluate(process, np.pad(t, (0, 50 - len(t)), mode="edge"))
    return {key: np.asarray(value)[..., : len(t)] for key, value in said.items()}


@each
def test_level_rises_and_the_ends_are_data_and_noise(process):
    level = say(process)["level"]
    assert (np.diff(level) > 0).all()
    end = say(process, np.array([0.0, *inner_times(process)[1:-1], process.t_max]))
    assert abs(end["alpha"][0] - 1) < 1e-15 and 0 <= end["level"][0] <= 0.02
    assert end["alpha"][-1] >= 0 and end["level"][-1] > level[-1]
    finite = ("rates", "drift", "diffusion")
    assert all(np.isfinite(end[key][..., 0]).all() for key in finite)  # VP: sigma'(0) is infinite


@each
def test_rates_are_the_slopes(process):
    t, h = inner_times(process), 1e-6 * process.t_max
    up, down = say(process, t + h), say(process, t - h)
    slopes = [(up[key] - down[key]) / (2 * h) for key in ("alpha", "sigma")]
    np.testing.assert_allclose(say(process)["rates"], slopes, rtol=1e-7, atol=1e-8)


@each
def test_sde_keeps_the_marginals(process):
    """The moments of the SDE, dm/dt = f m and dP/dt = 2 f P + g^2, are alpha and sigma^2."""
    said = say(process)
    (alpha_rate, sigma_rate), f, sigma = said["rates"], said["drift"], said["sigma"]
    np.testing.assert_allclose(f * said["alpha"], alpha_rate, rtol=1e-12, atol=1e-14)
    variance_rate = 2 * f * sigma**2 + said["diffusion"]
    np.testing.assert_allclose(variance_rate, 2 * sigma * sigma_rate, rtol=1e-9, atol=1e-12)
    assert (said["diffusion"] >= 0).all()


@each
def test_time_inverts_level(process):
    t = inner_times(process)
    np.testing.assert_allclose(say(process)["back"], t, rtol=1e-14, atol=1e-14 * process.t_max)


@each
def test_float32_stays_float32_and_close(process):
    """Also with float32 numbers in the process, as under jit without float64."""
    single = jax.tree.map(lambda x: np.float32(x), process)
    t = inner_times(process).astype(np.float32)
    said, expected = say(single, t), say(process)
    assert all(value.dtype == np.float32 for value in said.values())
    np.testing.assert_allclose(said["back"], t, rtol=3e-7, atol=3e-7 * process.t_max)
    for key in ("alpha", "sigma", "level", "rates", "diffusion"):
        tolerance = {"rtol": 2e-5, "atol": 3e-7 * np.abs(expected[key]).max()}
        np.testing.assert_allclose(said[key], expected[key], err_msg=key, **tolerance)


LEVELS = np.array([0.3, 0.7, 2.9, 0.0, 1e-300, 1e12, np.inf, np.nan])


@each
def test_time_beyond_the_ends(process):
    times, slopes, _ = invert(process, LEVELS)
    (zero, tiny, large, infinite, nan), last = times[3:], process.t_max
    assert (zero, infinite) == (0, last) and np.isnan(nan) and 0 <= tiny <= 0.03 * last
    np.testing.assert_allclose(large, last, rtol=1e-11)
    assert np.isfinite(slopes[3:-1]).all()


@each
def test_time_is_differentiable_in_the_level(process):
    h = 1e-6
    up, said, down = (np.stack(invert(process, LEVELS + d))[:, :3] for d in (h, 0, -h))
    np.testing.assert_allclose(said[1:], (up - down)[:2] / (2 * h), rtol=1e-6, atol=1e-9)


FIELDS = [
    (pr.VE(), "sigma_min"),
    (pr.VE(), "sigma_max"),
    (pr.VP(), "beta_min"),
    (pr.VP(), "beta_max"),
    (pr.SubVP(), "beta_max"),
    (pr.Cosine(), "offset"),
    (pr.TrigFlow(), "sigma_data"),
]


@pytest.mark.parametrize("process, field", FIELDS)
@pytest.mark.parametrize("function", [pr.level, pr.time])
def test_gradients_with_respect_to_the_numbers(process, field, function):
    at, value = 0.37, getattr(process, field)
    h = 1e-5 * value
    call = jax.jit(jax.value_and_grad(function))
    gradient = getattr(call(process, at)[1], field)
    up, down = (call(dataclasses.replace(process, **{field: value + d}), at)[0] for d in (h, -h))
    np.testing.assert_allclose(gradient, (up - down) / (2 * h), rtol=1e-7)


def test_gradient_with_respect_to_a_table():
    table, h = pr.zero_terminal_snr(SD), 1e-6
    call = jax.jit(jax.value_and_grad(lambda table: pr.time(pr.Discrete(table), 1.3)))
    gradient = np.asarray(call(table)[1])
    k = np.argmax(np.abs(gradient))
    step = h * np.eye(len(table))[k]
    difference = (call(table + step)[0] - call(table - step)[0]) / (2 * h)
    np.testing.assert_allclose(gradient[k], difference, rtol=1e-6)
    assert np.count_nonzero(gradient) == 2  # only the two knots around it matter


def test_shapes_pass_through():
    levels = np.full((2, 3), 0.7)
    batch = inverse(pr.VP(), levels)
    one = jax.vmap(jax.vmap(inverse, (None, 0)), (None, 0))(pr.VP(), levels)
    np.testing.assert_array_equal(batch, one)
    np.testing.assert_allclose(inverse(pr.EDM(), 3), 3, rtol=1e-15)


def test_closed_forms():
    t = np.array([1e-9, 1e-4, 0.03, 0.5, 0.97])
    vp = np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t))
    said = say(pr.VP(), t)
    np.testing.assert_allclose(said["level"], vp, rtol=1e-14)
    np.testing.assert_allclose(said["log_snr"], -2 * np.log(vp), rtol=1e-13)
    np.testing.assert_allclose(said["diffusion"], 0.1 + 19.9 * t, rtol=1e-12)
    np.testing.assert_allclose(said["drift"], -(0.1 + 19.9 * t) / 2, rtol=1e-12)
    np.testing.assert_allclose(pr.diffusion(pr.VP(), 0.0), 0.1, rtol=1e-12)
    np.testing.assert_allclose(say(pr.VE(0.01, 50.0), t)["level"], 0.01 * 5000**t, rtol=1e-13)
    np.testing.assert_allclose(say(pr.RectifiedFlow(), t)["level"], t / (1 - t), rtol=1e-15)
    np.testing.assert_allclose(say(pr.TrigFlow(0.5), t)["level"], 0.5 * np.tan(t), rtol=1e-14)
    said = say(pr.SubVP(), t)
    np.testing.assert_allclose(said["sigma"], 1 - said["alpha"] ** 2, rtol=1e-14, atol=1e-16)
    u = (np.array([0, *t]) + 0.008) / 1.008 * math.pi / 2
    cosine = np.cos(u[1:]) / np.cos(u[0])
    np.testing.assert_allclose(say(pr.Cosine(), t)["alpha"], cosine, rtol=1e-14)


@pytest.mark.parametrize("name", ["vp", "cosine", "discrete", "discrete_zero_snr"])
def test_variance_is_preserved(name):
    said = say(PROCESSES[name])
    np.testing.assert_allclose(said["alpha"] ** 2 + said["sigma"] ** 2, 1, rtol=1e-14)


def test_max_level():
    np.testing.assert_allclose(pr.max_level(pr.EDM(70.0)), 70)
    np.testing.assert_allclose(pr.max_level(pr.VP()), np.sqrt(np.expm1(10.05)), rtol=1e-13)
    for name in ("cosine", "flow", "trig", "discrete_zero_snr"):
        assert jax.jit(pr.max_level)(PROCESSES[name]) == 1000
    assert pr.max_level(pr.RectifiedFlow(), largest=50.0) == 50


def test_table_hits_its_knots_and_ends_in_zero():
    products = np.cumprod(1 - pr.linear_betas(20, 0.01, 0.4))
    knots = np.arange(1, 24) / 20  # the last three lie beyond t = 1
    table = pr.Discrete.from_betas(pr.linear_betas(20, 0.01, 0.4))
    np.testing.assert_allclose(say(table, knots)["alpha"][:20] ** 2, products, rtol=1e-13)
    shifted = pr.zero_terminal_snr(products)
    assert shifted[-1] == 0 and math.isclose(shifted[0], products[0], rel_tol=1e-14)
    alpha = say(pr.Discrete(shifted), knots)["alpha"]
    np.testing.assert_allclose(alpha[:20] ** 2, shifted, atol=1e-15)
    half = say(pr.Discrete(shifted), knots - 0.5 / 20)["alpha"][19]
    np.testing.assert_allclose(half, alpha[18] / 2, rtol=1e-12)  # alpha itself is linear there


def test_small_noise_keeps_its_digits_in_float32():
    """log alpha, not alphas_cumprod, is stored: in float32 1 - 1e-5 would leave two digits."""
    table = 1 - np.array([1e-5, 3e-5, 0.1])
    process = jax.tree.map(lambda x: np.float32(x), pr.Discrete(table))
    level = jax.jit(pr.level)(process, np.float32(1 / 3))
    np.testing.assert_allclose(level, np.sqrt(1e-5 / (1 - 1e-5)), rtol=1e-6)


def test_tables_of_betas():
    np.testing.assert_allclose(pr.linear_betas(1000)[[0, -1]], [1e-4, 0.02])
    np.testing.assert_allclose(pr.scaled_linear_betas(1000)[[0, -1]], [0.00085, 0.012])
    cosine = pr.cosine_betas(24)
    assert cosine.max() == 0.999 and (np.diff(cosine) >= 0).all()
    alphas = say(pr.Cosine(), np.arange(1, 24) / 24)["alpha"]
    np.testing.assert_allclose(np.cumprod(1 - cosine[:-1]), alphas**2, rtol=1e-12)


WRONG = [
    (lambda: pr.EDM(-1.0), "t_max"),
    (lambda: pr.VE(2.0, 1.0), "sigma_min < sigma_max"),
    (lambda: pr.VP(-0.1), "beta_min"),
    (lambda: pr.SubVP(0.0, 0.0), "not both 0"),
    (lambda: pr.Cosine(math.nan), "offset"),
    (lambda: pr.TrigFlow(0.0), "sigma_data"),
    (lambda: pr.Discrete([0.9]), "shape"),
    (lambda: pr.Discrete([0.5, 0.9]), "decrease"),
    (lambda: pr.Discrete([1.0, 0.9]), "below 1"),
    (lambda: pr.Discrete.from_betas([0.1, 1.5]), "betas"),
    (lambda: pr.linear_betas(5, 0.1, 1.5), "two betas or more"),
    (lambda: pr.scaled_linear_betas(5, -0.1, 0.5), "two betas or more"),
    (lambda: pr.cosine_betas(1), "two betas or more"),
    (lambda: pr.zero_terminal_snr(pr.linear_betas(20)), "decrease"),
]


@pytest.mark.parametrize("make, words", WRONG)
def test_wrong_numbers_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_published_vp_schedules():
    golden = load("solvers_vp_original")
    table = pr.Discrete.from_betas(golden["betas_discrete"])
    for name, process in (("linear", pr.VP()), ("discrete", table)):
        t, alpha, std, half, back = (
            golden[f"grid_check/{name}/{key}"]
            for key in ("t", "alpha", "std", "lambda", "inv_lambda")
        )
        said = say(process, t)
        np.testing.assert_allclose(said["alpha"], alpha, rtol=1e-13)
        np.testing.assert_allclose(said["sigma"], std, rtol=1e-11)
        np.testing.assert_allclose(said["log_snr"], 2 * half, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(inverse(process, np.exp(-half)), back, rtol=1e-9)


def test_published_discrete_schedule():
    golden = load("solvers_diffsampler")
    process = pr.Discrete(golden["discrete/alphas_cumprod"])
    t, levels = golden["discrete/t"], golden["discrete/sigma_of_t"]
    np.testing.assert_allclose(say(process, t)["level"], levels, rtol=1e-11)
    back = golden["discrete/sigma_inv_roundtrip"]
    np.testing.assert_allclose(inverse(process, levels), back, rtol=1e-9)


def test_discrete_labels_are_the_steps():
    """In float32 1000 t - 1 is short of three in four of the steps, and -0.99 below the first."""
    table, label = pr.Discrete.from_betas(pr.scaled_linear_betas(1000)), pr.discrete_label(1000)
    steps = np.arange(1000)
    with jax.enable_x64(True):
        levels = np.asarray(pr.level(table, (steps + 1.0) / 1000), np.float32)
    given = np.asarray(label(pr.time(table, levels)))
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given.astype(int), steps)
    ends = label(pr.time(table, np.array([1e-5, 0.002, 1e4], np.float32)))
    np.testing.assert_array_equal(ends, [0, 0, 999])
    assert label is pr.discrete_label(1000)
    with pytest.raises(ValueError, match="whole number of steps"):
        pr.discrete_label(0)


def test_times_of_a_second_call_compile_nothing():
    """Outside of a program, too: the loop that finds them is one."""
    calls = []

    @jax.tree_util.register_static
    class Counted:
        t_max = 80.0

        def alpha(self, t):
            calls.append(t)
            return jnp.ones_like(t)

        def sigma(self, t):
            return t

    process, levels = Counted(), jnp.asarray([0.3, 7.0])
    np.testing.assert_allclose(pr.time(process, levels), levels, rtol=1e-12)
    first = len(calls)
    np.testing.assert_allclose(pr.time(process, 2 * levels), 2 * levels, rtol=1e-12)
    assert len(calls) == first > 0
