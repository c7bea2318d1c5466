"""Bridges and cold diffusion: the law of the forward process is kept by every sampler, and losses
are the papers'.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import processes
from jaxdiff.arrays import expand
from jaxdiff.conditioning.processes.restore import step_weights
from jaxdiff.method import Context
from jaxdiff.noise import start_noise

RNG = np.random.default_rng(0)
KEY = jax.random.key(2)
TIMES = np.linspace(1.0, 0.0, 6)
BRIDGES = {
    "i2sb": processes.i2sb(),
    "ddbm": processes.ddbm(2.0),
    "ir_sde": processes.ir_sde(),
    "driftrec": processes.driftrec(),
    "indi": processes.indi(0.3),
    "resshift": processes.resshift(num_steps=5),
}


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("name", BRIDGES)
def test_every_step_keeps_the_forward_law(name, eta):
    """Of weights alone: mean and variance after a step from t are those of the process at r."""
    bridge = BRIDGES[name]
    for t, r in zip(TIMES, TIMES[1:-1], strict=False):
        keep, up = step_weights(bridge, t, r, eta)
        if bridge.variance(t) == 0 and eta < 1:
            continue  # pinned: there is no noise to keep, and the posterior's is drawn
        variance = keep**2 * bridge.variance(t) + up**2
        np.testing.assert_allclose(variance, bridge.variance(r), rtol=1e-9)
        np.testing.assert_allclose(up, eta * np.sqrt(bridge.posterior(t, r)[1]), rtol=1e-9)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_steps_of_traced_times_are_those_of_numbers(eta):
    """From the end, where some bridges have no noise, too."""
    for name, bridge in BRIDGES.items():
        for t, r in ((1.0, 0.7), (0.7, 0.3)):
            made = jnp.stack([jnp.asarray(w) for w in step_weights(bridge, t, r, eta)])
            traced = jnp.stack(step_weights(bridge, jnp.asarray(t), jnp.asarray(r), eta))
            np.testing.assert_allclose(traced, made, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", BRIDGES)
def test_times_may_be_arrays(name):
    bridge, times = BRIDGES[name], np.array([0.01, 0.3, 0.5, 0.7, 1.0])
    for function in (bridge.weight, bridge.variance):
        host = [function(float(t)) for t in times]
        np.testing.assert_allclose(function(jnp.asarray(times)), host, rtol=1e-10, atol=1e-15)
    assert bridge.weight(0.0) == 0 and bridge.variance(0.0) == pytest.approx(0.0, abs=1e-15)


def test_numbers_of_the_papers():
    shift = processes.resshift()
    etas = [shift.weight(n / 15) for n in range(1, 16)]
    np.testing.assert_allclose([etas[0], etas[-1]], [4e-4, 0.999], rtol=1e-9)
    q = (4 / 14) ** 0.3 * 14
    growth = np.exp(np.log(etas[-1] / etas[0]) / (2 * 14))
    np.testing.assert_allclose(np.sqrt(etas[4]), np.sqrt(etas[0]) * growth**q, rtol=1e-9)
    # the rate of I2SB, from its ends to its middle, is 1000 times the paper's of a step
    bridge, h = processes.i2sb(), 1e-4
    total = lambda t: bridge.size(t) ** 2  # noqa: E731
    np.testing.assert_allclose((total(0.5) - total(0.5 - h)) / h, 0.3, rtol=1e-3)
    np.testing.assert_allclose(total(h) / h, 0.1, rtol=1e-3)
    np.testing.assert_allclose(bridge.weight(0.5), 0.5, rtol=1e-12)
    # the Markov ones: a step of the process from r to t, by its own definition
    for name in ("ir_sde", "driftrec"):
        bridge, t, r = BRIDGES[name], 0.7, 0.4
        k, v = bridge.posterior(t, r)
        g = (1 - bridge.weight(t)) / (1 - bridge.weight(r))
        added = bridge.variance(t) - g**2 * bridge.variance(r)  # Bayes' rule for two Gaussians
        np.testing.assert_allclose(v, 1 / (1 / bridge.variance(r) + g**2 / added), rtol=1e-9)
        np.testing.assert_allclose(k, v * g / added, rtol=1e-9)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param("i2sb", marks=SLOW), "ir_sde", pytest.param("resshift", marks=SLOW)]
)
def test_a_chain_with_the_true_sample_reproduces_the_process(name):
    x0, degraded = jnp.full((4000, 1), 1.5), jnp.full((4000, 1), -0.5)
    bridge, times = BRIDGES[name], [1.0, 0.6, 0.3]
    for eta in (1.0, 0.0):
        x = processes.restore(lambda x, t, c=None: x0, bridge, times, degraded, key=KEY, eta=eta)
        mean = 1.5 * (1 - bridge.weight(0.3)) - 0.5 * bridge.weight(0.3)
        np.testing.assert_allclose(x.mean(), mean, atol=4 * np.sqrt(bridge.variance(0.3) / 4000))
        if name != "i2sb" or eta:
            np.testing.assert_allclose(x.var(), bridge.variance(0.3), rtol=0.1)
    whole = processes.restore(lambda x, t, c=None: x0, bridge, TIMES, degraded, key=KEY)
    np.testing.assert_allclose(whole, x0, rtol=1e-9)


def test_means_go_along_straight_lines():
    """InDI without noise, and I2SB's limit: x_r = (k x_t + (1 - k) x0)."""
    degraded, x0 = (
        jnp.asarray(RNG.standard_normal((3, 2))),
        jnp.asarray(RNG.standard_normal((3, 2))),
    )
    truth = lambda x, t, c=None: x0  # noqa: E731
    made = processes.restore(truth, processes.indi(), [1.0, 0.25], degraded, key=KEY, mean=True)
    np.testing.assert_allclose(made, 0.75 * x0 + 0.25 * degraded, rtol=1e-9)
    bridge = processes.i2sb()
    made = processes.restore(truth, bridge, [1.0, 0.25], degraded, key=KEY, mean=True)
    share = bridge.weight(0.25)
    np.testing.assert_allclose(made, (1 - share) * x0 + share * degraded, rtol=1e-9)


@pytest.mark.slow
def test_a_restoration_does_not_depend_on_its_batch():
    degraded = jnp.asarray(RNG.standard_normal((3, 2)))
    D = lambda x, t, c: jnp.tanh(x) * c[:, None]  # noqa: E731
    cond = jnp.array([1.0, 2.0, 3.0])
    for name in ("i2sb", "ir_sde"):
        whole = processes.restore(D, BRIDGES[name], TIMES, degraded, cond, key=KEY)
        one = processes.restore(
            D, BRIDGES[name], TIMES, degraded[1:2], cond[1:2], key=KEY, index=jnp.array([1])
        )
        np.testing.assert_allclose(one, whole[1:2], rtol=1e-9)


@pytest.mark.slow
def test_restoring_a_gaussian_gives_its_posterior():
    """x0 ~ N(0, 1), m = x0 + 0.5 n: the bridge's exact denoiser leads from m to p(x0 | m)."""
    bridge, m, count = processes.ddbm(1.0), 0.8, 4000
    posterior_mean, posterior_variance = m / 1.25, 0.25 / 1.25

    def exact(x, t, cond=None):  # E[x0 | x_t, m]: x_t has mean a x0 + b m and variance c^2
        a, c2 = 1 - bridge.weight(t), bridge.variance(t)
        precision = 1 / posterior_variance + a**2 / jnp.maximum(c2, 1e-12)
        pull = posterior_mean / posterior_variance
        pull = pull + a * (x - bridge.weight(t) * m) / jnp.maximum(c2, 1e-12)
        return pull / precision

    degraded = jnp.full((count, 1), m)
    x = processes.restore(exact, bridge, np.linspace(1.0, 0.0, 121), degraded, key=KEY)
    np.testing.assert_allclose(x.mean(), posterior_mean, atol=0.03)
    np.testing.assert_allclose(x.var(), posterior_variance, rtol=0.1)


def network(params, x, t, cond=None, key=None):
    return params["a"] * x + t.reshape(-1, *(1,) * (x.ndim - 1)) + (0.0 if cond is None else cond)


CONTEXT = Context(jnp.int32(0), {}, {}, None)


@pytest.mark.parametrize(
    ("name", "distance"), [("i2sb", "l2"), pytest.param("resshift", "l1", marks=SLOW)]
)
def test_losses_by_hand(name, distance):
    x0, degraded = (jnp.asarray(RNG.standard_normal((4, 2))) for _ in range(2))
    bridge, params = BRIDGES[name], {"a": jnp.asarray(0.7)}
    method = processes.bridge_matching(
        network, params, bridge, distance=distance, condition_on_degraded=True
    )
    value, metrics = method.players["restorer"].loss(
        params, CONTEXT, {"image": x0, "degraded": degraded}, KEY
    )
    key_time, key_noise, _ = jax.random.split(KEY, 3)
    t = jax.random.uniform(key_time, (4,), x0.dtype, 1e-3, 1.0)
    eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
    b, c = bridge.weight(t)[:, None], jnp.sqrt(bridge.variance(t))[:, None]
    x = (1 - b) * x0 + b * degraded + c * eps
    target = x0 if name == "resshift" else (x - x0) / bridge.size(t)[:, None]
    apart = 0.7 * x + t[:, None] + degraded - target
    expected = jnp.mean(apart**2 if distance == "l2" else jnp.abs(apart))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert metrics["loss"] == value


@pytest.mark.parametrize("name", [pytest.param("i2sb", marks=SLOW), "indi"])
def test_a_network_that_knows_has_loss_0_and_restores(name):
    """Degraded is twice the sample, so that x0 is half of it."""
    bridge = BRIDGES[name]
    x0 = jnp.asarray(RNG.standard_normal((4, 2)))

    def knows(params, x, t, cond=None, key=None):
        found = params * cond
        return found if bridge.size is None else (x - found) / bridge.size(t)[:, None]

    method = processes.bridge_matching(knows, jnp.asarray(0.5), bridge, condition_on_degraded=True)
    batch = {"image": x0, "degraded": 2 * x0}
    method.check(batch)
    params = method.init(KEY)["restorer"]
    value, _ = method.players["restorer"].loss(params, CONTEXT, batch, KEY)
    assert value < 1e-20
    D = method.sampler(types.SimpleNamespace(params={"restorer": params}))
    back = processes.restore(D, bridge, TIMES, 2 * x0, 2 * x0, key=KEY)
    np.testing.assert_allclose(back, x0, rtol=1e-9)


def two_maps(params, x, t, cond=None, key=None):
    """A linear network: one map at t = 1, another at t = 0."""
    t = t[:, None]
    late, early = (params[i] * x + params[i + 1] * cond for i in (0, 2))
    return t * late + (1 - t) * early


def sinsr_loss(params, batch, **weights):
    """SinSR's loss with the exact denoiser of x0 ~ N(0, 1) and m = x0 + e/2 as its teacher."""
    method = processes.sinsr(two_maps, jnp.zeros(4), exact_denoiser, SHIFT, TIMES, **weights)
    method.check(batch)
    context = CONTEXT._replace(frozen=method.frozen)
    return method, *method.players["student"].loss(params, context, batch, KEY)


SHIFT = BRIDGES["resshift"]


def exact_denoiser(x, t, cond):
    b, c = (expand(jnp.asarray(v, x.dtype), x) for v in (SHIFT.weight(t), SHIFT.variance(t)))
    return (4 * cond + (1 - b) * (x - b * cond) / c) / (5 + (1 - b) ** 2 / c)


def test_sinsr_at_its_optimum_and_by_hand():
    """The flow of Gaussian data is linear: with it and its inverse every part of the loss is 0, and
    one evaluation is the teacher's five.
    """
    m, image = (jnp.asarray(RNG.standard_normal((8, 2))) for _ in range(2))
    start = m + jnp.sqrt(SHIFT.variance(1.0)) * start_noise(KEY, jnp.arange(8), (2,), m.dtype)
    made = processes.restore(exact_denoiser, SHIFT, TIMES, m, m, key=KEY, eta=0.0)
    columns = np.stack([np.ravel(start), np.ravel(m)], axis=1)
    a, b = np.linalg.lstsq(columns, np.ravel(made), rcond=None)[0]
    best, batch = jnp.asarray([a, b, 1 / a, -b / a]), {"image": image, "degraded": m}
    method, value, _ = sinsr_loss(best, batch)
    assert value < 1e-16 / a**2
    D = method.sampler(types.SimpleNamespace(params={"student": best}))
    once = processes.restore(D, SHIFT, [1.0, 0.0], m, m, key=KEY)
    np.testing.assert_allclose(once, made, rtol=1e-7, atol=1e-9)

    wrong = jnp.asarray([0.1, 1.0, 0.3, 0.5])
    _, value, parts = sinsr_loss(wrong, batch, inverse=2.0, truth=3.0)
    truth = 0.1 * (0.3 * image + 0.5 * m) + m
    np.testing.assert_allclose(parts["truth"], jnp.mean((truth - image) ** 2))
    total = parts["distilled"] + 2 * parts["inverse"] + 3 * parts["truth"]
    np.testing.assert_allclose(value, total)
    np.testing.assert_array_less(1e-3, [parts["distilled"], parts["inverse"]])


def test_cold_diffusion_by_a_linear_degradation_is_exact():
    """Degrading by a known shift: errors of the denoiser cancel (section 4.2 of the paper)."""
    x0, away = jnp.asarray(RNG.standard_normal((3, 2))), jnp.array([[1.0, -2.0]])
    degrade = lambda x, t: x + t * away  # noqa: E731
    wrong = lambda y, t, c=None: 0.3 * y  # noqa: E731
    x = jd.direct(wrong, processes.cold, [1.0, 0.6, 0.2, 0.0], degrade(x0, 1.0), degrade=degrade)
    np.testing.assert_allclose(x, x0, rtol=1e-9)
    squash = lambda x, t: x / (1 + t)  # noqa: E731
    exact = lambda y, t, c=None: y * (1 + t)  # noqa: E731
    x = jd.direct(exact, processes.cold, [1.0, 0.5, 0.0], squash(x0, 1.0), degrade=squash)
    np.testing.assert_allclose(x, x0, rtol=1e-9)


ZEROS = jnp.zeros((2, 2))
WRONG = {
    "rates must": lambda: processes.i2sb(0.0),
    "level at the end": lambda: processes.ddbm(-1.0),
    "left must": lambda: processes.ir_sde(left=1.0),
    "noise grows": lambda: processes.driftrec(low=2.0),
    "spread must": lambda: processes.indi(-1.0),
    "at least 2 steps": lambda: processes.resshift(num_steps=1),
    "last must": lambda: processes.resshift(last=1.5),
    "indi predicts x0": lambda: processes.restorer(network, {}, processes.indi(), "difference"),
    "ends without noise": lambda: processes.sinsr(
        two_maps, {}, exact_denoiser, processes.indi(), TIMES
    ),
    "times from 1 to 0": lambda: processes.sinsr(two_maps, {}, exact_denoiser, SHIFT, [0.9, 0.0]),
    "weights must not": lambda: processes.sinsr(
        two_maps, {}, exact_denoiser, SHIFT, TIMES, truth=-1.0
    ),
    "lowest time": lambda: processes.bridge_matching(network, {}, processes.i2sb(), lowest=0.0),
    "give one of them": lambda: processes.restore(
        lambda x, t, c=None: x, processes.i2sb(), TIMES, ZEROS, key=KEY, mean=True, eta=0.5
    ),
    "at most 1": lambda: processes.restore(
        lambda x, t, c=None: x, processes.indi(0.1), [1.2, 0.5, 0.0], ZEROS, key=KEY
    ),
    "needs 'degraded'": lambda: processes.bridge_matching(network, {}, processes.i2sb()).check(
        {"image": ZEROS}
    ),
    "should be the same": lambda: processes.bridge_matching(network, {}, processes.i2sb()).check(
        {"image": ZEROS, "degraded": ZEROS[:, :1]}
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        WRONG[said]()


@pytest.mark.slow
def test_a_trained_bridge_restores():
    """A linear network of I2SB on Gaussian data finds the posterior mean's weight."""
    bridge = processes.ddbm(1.0)

    def linear(params, x, t, cond=None, key=None):
        bins = jnp.clip((t * 8).astype(jnp.int32), 0, 7)
        return params["x"][bins][:, None] * x + params["m"][bins][:, None] * cond

    params = {"x": jnp.zeros(8), "m": jnp.zeros(8)}
    method = processes.bridge_matching(
        linear, params, bridge, prediction="x0", condition_on_degraded=True, lowest=0.05
    )
    rng = np.random.default_rng(0)
    x0 = rng.standard_normal((4096, 1))
    data = {"image": x0, "degraded": x0 + 0.5 * rng.standard_normal((4096, 1))}
    value = lambda p, k: method.players["restorer"].loss(p, CONTEXT, data, k)[0]  # noqa: E731
    loss = jax.jit(jax.value_and_grad(value))
    for i in range(400):
        _, slope = loss(params, jax.random.fold_in(KEY, i))
        params = jax.tree.map(lambda p, g: p - 0.2 * g, params, slope)
    # at t near 1 the state is the degraded picture: E[x0 | m] = m/1.25
    np.testing.assert_allclose(params["x"][7] + params["m"][7], 0.8, atol=0.05)
