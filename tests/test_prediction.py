import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import denoisers as dn
from jaxdiff import prediction as pn
from jaxdiff import process as pr

TABLE = np.cumprod(1 - pr.scaled_linear_betas(20, 0.01, 0.3))
PROCESSES = {
    "edm": pr.EDM(),
    "vp": pr.VP(),
    "flow": pr.RectifiedFlow(),
    "trig": pr.TrigFlow(sigma_data=0.5),
    "discrete": pr.Discrete(TABLE),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
each_prediction = pytest.mark.parametrize("name", pn.PREDICTIONS)
SHAPE = (3, 2, 2)
SD = 0.7


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=SHAPE), rng.normal(size=SHAPE)


def three_times(process):
    return np.array([0.07, 0.42, 0.83]) * process.t_max


@jax.jit
def all_targets(process, x0, eps, t):
    """All targets, the state, and what rows are made of."""
    alpha, sigma, rates = process.alpha(t), process.sigma(t), pr.rates(process, t)
    x = pn.expand(alpha, x0) * x0 + pn.expand(sigma, x0) * eps
    values = [pn.target(name, x0, eps, process, t, SD) for name in pn.PREDICTIONS]
    return jnp.stack(values), x, (alpha, sigma, rates)


@each_process
def test_every_prediction_is_made_of_every_other(process):
    said = all_targets(process, *draw(), three_times(process))
    values, x, (alpha, sigma, rates) = jax.tree.map(np.asarray, said)
    rows = [pn.row(name, alpha, sigma, rates, SD) for name in pn.PREDICTIONS]
    for source, value in zip(rows, values, strict=True):
        for new, expected in zip(rows, values, strict=True):
            p, q = (np.reshape(w, (-1, 1, 1)) for w in pn.mix(source, new, alpha, sigma))
            np.testing.assert_allclose(p * x + q * value, expected, rtol=1e-11, atol=1e-11)


def test_convert_takes_scalars_and_numbers_per_sample():
    (x0, eps), t = draw(), np.array([0.1, 0.5, 0.9])
    x = (1 - t)[:, None, None] * x0 + t[:, None, None] * eps
    convert = jax.jit(pn.convert)
    data = convert(eps - x0, x, (-1.0, 1.0), pn.X0, 1 - t, t)
    np.testing.assert_allclose(data, x0, rtol=1e-12, atol=1e-14)
    noise = convert(x0, 0.8 * x0 + 0.6 * eps, pn.X0, pn.EPS, 0.8, 0.6)
    np.testing.assert_allclose(noise, eps, rtol=1e-12, atol=1e-14)


@each_process
def test_targets_are_what_they_are_called(process):
    (x0, eps), t, h = draw(), three_times(process), 1e-6 * process.t_max
    said = all_targets(process, x0, eps, t)
    values, x, (alpha, sigma, _) = jax.tree.map(np.asarray, said)
    alpha, sigma = alpha[:, None, None], sigma[:, None, None]
    said = dict(zip(pn.PREDICTIONS, values, strict=True))
    np.testing.assert_array_equal(said["x0"], x0)
    np.testing.assert_array_equal(said["eps"], eps)
    np.testing.assert_allclose(said["v"], alpha * eps - sigma * x0, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(said["score"], -(x - alpha * x0) / sigma**2, rtol=1e-9)
    up, down = (all_targets(process, x0, eps, t + d)[1] for d in (h, -h))
    np.testing.assert_allclose(said["flow"], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)
    scalings = pn.edm_scalings(sigma / alpha, SD)
    preconditioned = (x0 - scalings.c_skip * x / alpha) / scalings.c_out
    np.testing.assert_allclose(said["edm"], preconditioned, rtol=1e-11, atol=1e-13)


def test_flow_of_straight_lines_is_noise_minus_data():
    x0, eps = draw()
    np.testing.assert_allclose(pn.target("flow", x0, eps, pr.RectifiedFlow(), 0.3), eps - x0)


def test_where_the_determinant_vanishes_nothing_is_hidden():
    one = jnp.ones((1, 2))
    at_noise = pn.convert(one, one, pn.EPS, pn.X0, 0.0 * one[0, 0], 1.0)
    at_data = pn.convert(one, one, pn.X0, pn.EPS, 1.0, 0.0 * one[0, 0])
    assert not np.isfinite(at_noise).any() and not np.isfinite(at_data).any()
    flow = pn.convert(one, 3 * one, (-1.0, 1.0), pn.X0, 0.0 * one[0, 0], 1.0)
    np.testing.assert_array_equal(flow, 2 * one)  # x0 = x - t v, also at t = 1
    np.testing.assert_array_equal(pn.convert(one, one, pn.X0, pn.X0, 1.0, 0.0), one)


def test_scalings_give_unit_variances():
    """2206.00364, appendix B.6: inputs and targets have variance 1 for data of variance sd^2."""
    level = np.geomspace(1e-3, 1e3, 7)
    c_skip, c_out, c_in, c_noise = pn.edm_scalings(level, SD)
    np.testing.assert_allclose(c_in**2 * (SD**2 + level**2), 1, rtol=1e-13)
    variance = ((1 - c_skip) ** 2 * SD**2 + c_skip**2 * level**2) / c_out**2
    np.testing.assert_allclose(variance, 1, rtol=1e-9)
    np.testing.assert_allclose(c_noise, np.log(level) / 4, rtol=1e-13)
    np.testing.assert_allclose(pn.edm_weight(level, SD), c_out**-2, rtol=1e-13)
    a, b = pn.row("edm", np.ones(7), level, sigma_data=SD)
    np.testing.assert_allclose(a, (1 - c_skip) / c_out, rtol=1e-9)
    np.testing.assert_allclose(b, -c_skip * level / c_out, rtol=1e-12)


def test_boundary_scalings_keep_the_state_at_the_boundary():
    said = pn.boundary_scalings(jnp.array(0.01), SD, 0.01)
    assert (said.c_skip, said.c_out) == (1, 0)
    y = jnp.asarray(draw()[0])
    denoise = dn.denoiser(bland, jnp.array(0.4), sigma_data=SD, sigma_min=0.01)
    np.testing.assert_array_equal(call(denoise, y, 0.01), y)
    assert not np.allclose(call(denoise, y, 0.5), y)


def test_published_scalings_and_weights():
    golden = load("losses_diffusion")
    for case in (c for c in golden.cases if c["what"] == "scalings"):
        level, sd = golden.get(case, "sigma"), case["sigma_data"]
        plain, bounded = (
            pn.edm_scalings(level, sd),
            pn.boundary_scalings(level, sd, case["sigma_min"]),
        )
        for key, said in (
            ("scalings", np.stack(plain[:3])),
            ("scalings_boundary", np.stack(bounded[:3])),
            ("weight:snr", pn.snr_weight(level)),
            ("weight:snr+1", pn.snr_plus_one_weight(level)),
            ("weight:truncated-snr", pn.truncated_snr_weight(level)),
            ("weight:karras", pn.edm_weight(level, sd)),
            ("weight:uniform", pn.uniform_weight(level)),
        ):
            np.testing.assert_allclose(said, golden.get(case, key), rtol=1e-12, err_msg=key)


def gaussian(params, y, s):
    """The exact denoiser of N(mean, variance) in every coordinate."""
    return params["mean"] + params["variance"] / (params["variance"] + s**2) * (y - params["mean"])


PARAMS = {"mean": np.array(0.3), "variance": np.array(0.5)}


def ideal(prediction, process, sigma_data=SD):
    """A network that predicts perfectly, from what it is given: x and its label."""

    def apply(params, x, label, cond):
        if prediction == "edm":
            s = pn.expand(jnp.exp(4 * label), x)
            scalings = pn.edm_scalings(s, sigma_data)
            y = x / scalings.c_in
            return (gaussian(params, y, s) - scalings.c_skip * y) / scalings.c_out
        alpha, sigma = process.alpha(label), process.sigma(label)
        row = pn.row(prediction, alpha, sigma, pr.rates(process, label))
        x0 = gaussian(params, x / pn.expand(alpha, x), pn.expand(sigma / alpha, x))
        return pn.convert(x0, x, pn.X0, row, alpha, sigma)

    return apply


call = jax.jit(lambda denoiser, y, level: denoiser(y, level))


@each_prediction
@pytest.mark.parametrize("process", ["vp", "flow"])
def test_denoiser_of_a_perfect_network_is_the_posterior_mean(name, process):
    process, y = PROCESSES[process], 2 * draw()[0]
    network = ideal(name, process)
    denoise = dn.denoiser(network, PARAMS, prediction=name, process=process, sigma_data=SD)
    level = np.array([0.02, 0.7, 5.0])
    expected = gaussian(PARAMS, y, level[:, None, None])
    np.testing.assert_allclose(call(denoise, y, level), expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(call(denoise, y, 0.7)[1], expected[1], rtol=1e-9)


def bland(params, x, label, cond):
    """A network that is smooth everywhere."""
    return params * jnp.tanh(x + pn.expand(label, x))


@pytest.mark.parametrize("name", ["x0", "eps", "v", "flow", "edm"])
def test_value_and_gradient_at_level_zero(name):
    """D(y, 0) = y, except that a network for x0 says what it wants."""
    y, process = jnp.asarray(draw()[0]), pr.VP()
    denoise = dn.denoiser(bland, jnp.array(0.4), prediction=name, process=process)
    value, slope = jax.jit(jax.jvp, static_argnums=0)(lambda s: denoise(y, s), (0.0,), (1.0,))
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    if name != "x0":
        np.testing.assert_allclose(value, y, rtol=1e-12)
    if name == "eps":  # D = y - s eps
        np.testing.assert_allclose(slope, -0.4 * np.tanh(y), rtol=1e-12)


def test_gradient_with_respect_to_the_process():
    y, h = jnp.asarray(draw()[0]), 1e-6

    def loss(beta_min):
        process = pr.VP(beta_min)
        return dn.denoiser(bland, 0.4, prediction="eps", process=process)(y, 0.7).sum()

    both = jax.jit(jax.value_and_grad(loss))
    slope = (both(0.1 + h)[0] - both(0.1 - h)[0]) / (2 * h)
    np.testing.assert_allclose(both(0.1)[1], slope, rtol=1e-7)


def test_what_the_network_is_given():
    seen = {}

    def apply(params, x, label, cond, **options):
        seen.update(x=x, label=label, cond=cond, **options)
        return x

    y, cond, table = jnp.asarray(draw()[0]), jnp.arange(3), pr.Discrete(TABLE)
    steps = dn.denoiser(apply, (), prediction="eps", process=table, label=lambda t: 20 * t - 1)

    @jax.jit
    def look(steps, y):
        steps(y, np.sqrt(1 / TABLE[7] - 1), seen["cond"], key="a key")
        return seen["x"], seen["label"]

    seen["cond"] = cond
    seen["x"], seen["label"] = look(steps, y)
    np.testing.assert_allclose(seen["label"], [7, 7, 7], rtol=1e-12)
    np.testing.assert_allclose(seen["x"], np.sqrt(TABLE[7]) * y, rtol=1e-12)
    assert seen["cond"] is cond and seen["key"] == "a key"
    dn.denoiser(apply, (), sigma_data=SD, label=lambda s: 250 * jnp.log(s))(y, 2.0)
    np.testing.assert_allclose(seen["label"], 250 * np.log([2, 2, 2]))
    np.testing.assert_allclose(seen["x"], y / np.hypot(2, SD), rtol=1e-12)
    assert seen["cond"] is None


@pytest.mark.parametrize("name", ["edm", "eps", "flow"])
@pytest.mark.parametrize(
    "dtype, compute, inside, label",
    [
        ("float32", None, "float32", "float32"),
        ("float32", "bfloat16", "bfloat16", "float32"),
        ("bfloat16", None, "bfloat16", "float32"),
        ("float64", "float32", "float32", "float64"),
    ],
)
def test_dtypes(name, dtype, compute, inside, label):
    seen = {}

    def apply(params, x, time, cond):
        seen.update(x=x.dtype, label=time.dtype, shape=time.shape)
        return x * params.astype(x.dtype)

    denoise = dn.denoiser(
        apply, jnp.float32(0.5), prediction=name, process=pr.VP(), compute_dtype=compute
    )
    said = jax.eval_shape(denoise, jnp.ones(SHAPE, dtype), 0.3)
    assert (said.dtype, said.shape) == (jnp.dtype(dtype), SHAPE)
    assert seen == {"x": jnp.dtype(inside), "label": jnp.dtype(label), "shape": SHAPE[:1]}


def test_parameters_are_arguments_of_the_compiled_program():
    traces = []

    def apply(params, x, label, cond):
        traces.append(1)
        return params["w"] * x

    y = jnp.ones(SHAPE)
    make = lambda w, beta: dn.denoiser(  # noqa: E731
        apply, {"w": jnp.array(w)}, prediction="eps", process=pr.VP(beta)
    )
    first, second = call(make(0.1, 0.1), y, 1.0), call(make(0.2, 0.3), y, 1.0)
    assert len(traces) == 1 and not np.allclose(first, second)
    leaves = [*map(float, jax.tree.leaves(make(0.1, 0.2)))]  # w, betas, sigma_data, sigma_min
    assert leaves == [0.1, 0.2, 20.0, 0.5, 0.0]
    gradient = jax.jit(jax.grad(lambda d: d(y, 1.0).sum()))(make(0.1, 0.1))
    alpha = np.sqrt(0.5)  # at level 1
    np.testing.assert_allclose(jax.tree.leaves(gradient)[0], -alpha * y.sum(), rtol=1e-12)


WRONG = [
    (lambda: dn.denoiser(bland, (), prediction="velocity"), "x0, eps, score, v, flow, edm"),
    (lambda: dn.denoiser(bland, (), sigma_data=0.0), "sigma_data"),
    (lambda: pn.row("noise", 1.0, 1.0), "unknown prediction 'noise'"),
    (lambda: pn.row("flow", 1.0, 1.0), "rates"),
    (lambda: pn.target("F", jnp.ones(1), jnp.ones(1), pr.VP(), 0.5), "unknown prediction"),
]


@pytest.mark.parametrize("make, words", WRONG)
def test_wrong_names_and_numbers_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_makes_no_denoiser_is_refused_by_name():
    network = lambda params, x, label, cond=None: x  # noqa: E731
    for given, words in (
        ({"apply": {"w": 1.0}}, "function"),
        ({"process": "vp"}, "process is one of jaxdiff.process"),
        ({"process": pr.VP}, "process is one of jaxdiff.process"),
        ({"compute_dtype": "int32"}, "compute_dtype must be floating, not int32"),
    ):
        with pytest.raises(TypeError, match=words):
            dn.denoiser(**{"apply": network, "params": {}} | given)
    with pytest.raises(ValueError, match="sigma_min must not be negative"):
        dn.denoiser(network, {}, sigma_min=-1.0)
