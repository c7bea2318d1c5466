"""AMED's learned predictor: what it computes, its loss's gradient, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import denoisers, grids, solvers
from jaxdiff.exact import GaussianMixture
from jaxdiff.method import Context
from jaxdiff.networks import UNet, from_linen
from jaxdiff.networks import init as init_network
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.amed import StepNumbers, amed_step
from jaxdiff.solvers.amed_plugin import amed_dpmpp_step, amed_ipndm, amed_ipndm_step
from jaxdiff.training.loop import fit
from jaxdiff.tuning.learned.amed import PredictedSampler, Solve, amed_predictor
from jaxdiff.tuning.learned.amed_network import (
    Predictor,
    bottleneck,
    bottleneck_size,
    init,
    predict,
)
from jaxdiff.typing import Outputs

LEVELS = [float(s) for s in grids.karras(3, 0.05, 20.0, zero=False)]
MIXTURE = GaussianMixture(
    np.array([0.3, 0.5, 0.2]),
    np.array([[-1.0, 0.5], [0.4, -0.7], [1.3, 0.2]]),
    np.array([[0.06, 0.1], [0.02, 0.05], [0.16, 0.04]]),
)


def plain(y, s, cond=None):
    return MIXTURE.denoiser(y, s)


def featured(y, s, cond=None, *, full=False):
    """The exact denoiser with features: five maps of (2, 1) places and 3 channels."""
    value = MIXTURE.denoiser(y, s)
    maps = jnp.stack([y / 20.0, value, jnp.tanh(y)], axis=-1)[:, :, None]
    return (
        Outputs(value, None, tuple(maps + i for i in (-2.0, -1.0, 0.0, 1.0, 2.0)))
        if full
        else value
    )


D = {None: jax.tree_util.Partial(plain), 2: jax.tree_util.Partial(featured)}


def random_params(predictor, scale=0.5, seed=0):
    random = np.random.default_rng(seed)
    params = init(jax.random.key(0), predictor)
    return jax.tree.map(lambda p: jnp.asarray(scale * random.normal(size=p.shape)), params)


def count(predictor):
    return sum(p.size for p in jax.tree.leaves(init(jax.random.key(0), predictor)))


@pytest.mark.slow
def test_the_papers_numbers_of_parameters():
    assert count(Predictor(64)) == 8950
    assert count(Predictor(64, time=0.2)) == 8971
    assert count(Predictor(None)) == 72 + 2 * 17


@pytest.mark.slow
def test_predictions_by_hand():
    own = Predictor(5, direction=0.05, time=0.2)
    params, b = random_params(own), np.random.default_rng(1).normal(size=(3, 5))
    p = jax.tree.map(np.asarray, params)
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    silu = lambda x: x * sigmoid(x)  # noqa: E731
    angles = np.array([1.0, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4])
    e = [silu(dense("levels", np.r_[np.cos(s * angles), np.sin(s * angles)])) for s in (7.0, 0.3)]
    h = np.c_[dense("reduced", silu(dense("hidden", b))), np.tile(np.concatenate(e), (3, 1))]
    heads = [sigmoid(dense(name, h)[:, 0]) for name in ("ratio", "direction", "time")]
    ratio = 0.001 + 0.998 * heads[0]
    expected = ratio, 1 + 0.05 * (2 * heads[1] - 1), 1 + 0.2 * (2 * heads[2] - 1)
    network_levels = predict(params, jnp.asarray(b), 7.0, 0.3, own)
    np.testing.assert_allclose(network_levels, expected, rtol=1e-12)
    assert np.ptp(network_levels.ratio) > 1e-3

    alone = Predictor(None)
    network_levels = predict(random_params(alone), None, 7.0, 0.3, alone)
    assert network_levels.ratio.shape == network_levels.direction.shape == ()
    assert network_levels.time == 1.0


def test_ranges():
    own = Predictor(5, direction=0.01, time=0.2)
    for seed in range(5):
        params = random_params(own, 30.0, seed)
        network_levels = predict(params, jnp.ones((1, 5)), 7.0, 0.3, own)
        for value, (low, high) in zip(
            network_levels, ((1e-3, 0.999), (0.99, 1.01), (0.8, 1.2)), strict=True
        ):
            assert low - 1e-12 <= value[0] <= high + 1e-12
            assert value[0] - low < 1e-3 or high - value[0] < 1e-3  # saturated: the whole range


def test_bottleneck_is_the_channel_mean_of_the_middle_map():
    outputs = featured(jnp.ones((4, 2)), 3.0, full=True)
    middle = outputs.features[2]
    assert middle.shape == (4, 2, 1, 3)
    np.testing.assert_allclose(bottleneck(outputs), np.mean(middle, axis=3)[:, :, 0])
    np.testing.assert_allclose(bottleneck(outputs, 3), np.mean(middle, axis=3)[:, :, 0] + 1)
    vector = Outputs(None, None, (jnp.ones((4, 7)),))
    assert bottleneck(vector).shape == (4, 7)
    assert bottleneck_size(D[2], (2,)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [None, 2])
@pytest.mark.parametrize("first", [None, solvers.steps.unit_first])
def test_untrained_it_is_the_solver_itself(inputs, first):
    levels, start = (*LEVELS, 0.0), 20.0 * jax.random.normal(jax.random.key(1), (4, 2))
    own = Predictor(inputs, time=0.2)
    params = jax.tree.map(lambda p: p.astype(start.dtype), init(jax.random.key(0), own))
    for step, base, options in (
        (amed_step, solvers.dpm2, {}),
        (functools.partial(amed_ipndm_step, order=2), amed_ipndm, {"order": 2}),
    ):
        solve = Solve(levels, own, step, first)
        made = table(base, levels, first=first, **options)
        got = PredictedSampler(D[inputs], params, solve).sample(start)
        np.testing.assert_allclose(got, sample(D[None], made, start), rtol=1e-10, atol=1e-10)
        assert solve.nfe == made.nfe


@pytest.mark.slow
def test_samples_are_predicted_from_the_first_evaluation_of_each_step():
    """Step by step by hand; zero features in an analytic first step."""
    own, start = Predictor(2, time=0.2), 20.0 * jax.random.normal(jax.random.key(1), (4, 2))
    params, y = random_params(own), start
    for i, (s, r) in enumerate(zip(LEVELS[:-1], LEVELS[1:], strict=True)):
        outputs = featured(y, s, full=True)
        b = bottleneck(outputs) if i else jnp.zeros((4, 2))
        value = outputs.value if i else solvers.steps.unit_first(y, s)
        ratio, c, t = (x[:, None] for x in predict(params, b, s, r, own))
        m = jnp.exp(ratio * jnp.log(r) + (1 - ratio) * jnp.log(s))
        z = y + (m - s) * (y - value) / s
        y = y + c * (r - s) * (z - plain(z, (t * m)[:, 0])) / m
    sampler = PredictedSampler(D[2], params, Solve((*LEVELS,), own, first=solvers.steps.unit_first))
    got = sampler.sample(start)
    np.testing.assert_allclose(got, y, rtol=1e-10)
    np.testing.assert_allclose(sampler.sample(start[1:2]), got[1:2], rtol=1e-10)
    called = sampler(jax.random.key(3), jnp.array([5, 2]), (2,))
    starts = LEVELS[0] * start_noise(jax.random.key(3), jnp.array([5, 2]), (2,))
    assert called.dtype == jnp.float32
    np.testing.assert_allclose(called, sampler.sample(starts), rtol=1e-6)


def teacher_paths(count, seed=0, levels=LEVELS):
    start = levels[0] * jax.random.normal(jax.random.key(seed), (count, 2))
    fine = np.exp(np.interp(np.arange(0, 3.01, 1 / 16), np.arange(4), np.log(levels)))
    states = trajectory(D[None], table(solvers.dpm_solver, fine), start).states
    return jnp.moveaxis(states[::16], 0, 1)


def context(method):
    return Context(jnp.zeros((), jnp.int32), {}, {}, method.frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "options"),
    [
        (amed_step, {}),
        pytest.param(amed_ipndm_step, {"order": 3}, marks=pytest.mark.slow),
        pytest.param(amed_dpmpp_step, {"order": 2, "lower_final": False}, marks=pytest.mark.slow),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_gradient_is_that_of_the_loss_with_its_beginnings_held(step, options):
    own = Predictor(2, time=0.2)
    step = functools.partial(step, **options)
    method = amed_predictor(D[2], LEVELS, own, step=step)
    path, params = teacher_paths(3), random_params(own, 0.2)
    loss = jax.jit(
        lambda p: method.players["predictor"].loss(p, context(method), {"path": path}, None)
    )

    def steps(params, begins):
        """Loss, and where each step began, every one from a beginning of ``begins``."""
        total, past, y, found = 0.0, (), path[:, 0], []
        for i, (s, r) in enumerate(zip(LEVELS[:-1], LEVELS[1:], strict=True)):
            fresh = step.func is amed_step
            begin = begins[i] if begins else (path[:, i] if fresh else y, past)
            found.append(begin)
            b = bottleneck(featured(begin[0], s, full=True))
            network_levels = StepNumbers(*(x[:, None] for x in predict(params, b, s, r, own)))
            y, past = step(
                plain, *begin, LEVELS, i, lambda network_levels=network_levels: network_levels
            )
            total = total + jnp.sum((y - path[:, i + 1]) ** 2) / 3
        return total, found

    held = jax.tree.map(jax.lax.stop_gradient, steps(params, None)[1])
    value, metrics = loss(params)
    np.testing.assert_allclose(value, steps(params, None)[0], rtol=1e-10)
    assert metrics["loss"] == value > metrics["last step"]
    gradient = jax.grad(lambda p: loss(p)[0])(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
    for seed in range(3):
        way, h = random_params(own, 1.0, seed=seed + 7), 1e-6
        moved = lambda e, way=way: jax.tree.map(lambda p, q: p + e * q, params, way)  # noqa: E731
        slope = (steps(moved(h), held)[0] - steps(moved(-h), held)[0]) / (2 * h)
        along = sum(
            jnp.vdot(g, w)
            for g, w in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
        )
        np.testing.assert_allclose(along, slope, rtol=1e-5)
    wild = jax.grad(lambda p: loss(p)[0])(random_params(own, 30.0))  # ratios at their ends
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(wild))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "step"),
    [(None, amed_step), (2, functools.partial(amed_ipndm_step, order=2))],
    ids=["amed", "ipndm with features"],
)
def test_training_takes_error_off_the_samples(inputs, step):
    """Of held-out starts as well: the squared distance of samples to the teacher's falls."""
    own = Predictor(inputs, direction=0.05)
    method = amed_predictor(D[inputs], LEVELS, own, step=step)
    paths, others = np.asarray(teacher_paths(64)), teacher_paths(256, seed=1)
    data = lambda step: {"path": paths.astype(np.float32)}  # noqa: E731
    state = fit(method, data, num_updates=150, key=0, progress=False)
    loss = jax.jit(lambda p: method.players["predictor"].loss(p, context(method), data(0), None)[0])
    losses, errors = [], []
    for params in (method.init(jax.random.key(0))["predictor"], state.params["predictor"]):
        sampler = method.sampler(state)._replace(params=params)
        got = sampler.sample(others[:, 0].astype(jnp.float32))
        errors.append(float(jnp.mean((got - others[:, -1].astype(jnp.float32)) ** 2)))
        losses.append(float(loss(params)))
    assert losses[1] < 0.6 * losses[0], (losses, errors)
    assert errors[1] < 0.6 * errors[0], (losses, errors)


@pytest.mark.slow
def test_with_a_networks_features(key):
    """A tiny U-Net: the map in its middle is what the predictor reads, and is trained on."""
    module = UNet(channels=8, groups=4, embedding=8, num_classes=3)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init_network(module, key, (8, 8, 2)), key)
    weights = jax.tree.map(
        lambda p: jnp.asarray(0.3 * random.standard_normal(p.shape), p.dtype), shapes
    )
    D = denoisers.denoiser(from_linen(module), weights)
    size = bottleneck_size(D, (8, 8, 2))
    assert size == 16  # the lowest map is 4x4
    own = Predictor(size)
    method = amed_predictor(D, LEVELS[1:], own)
    params = jax.tree.map(lambda p: p.astype(jnp.float32), random_params(own))
    path = jnp.asarray(random.normal(size=(2, 3, 8, 8, 2)), jnp.float32)
    batch = {"path": path, "label": jnp.array([0, 2], jnp.int32)}
    loss = lambda p: method.players["predictor"].loss(p, context(method), batch, None)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
    outputs = D(path[:, 0], jnp.float32(LEVELS[1]), batch["label"], full=True)
    network_levels = predict(params, bottleneck(outputs), LEVELS[1], LEVELS[2], own)
    assert (
        network_levels.ratio.shape == (2,)
        and abs(network_levels.ratio[0] - network_levels.ratio[1]) > 1e-4
    )
    sampler = PredictedSampler(D, params, Solve((*LEVELS[1:],), own))
    whole = sampler.sample(path[:, 0], batch["label"])
    assert whole.shape == (2, 8, 8, 2) and np.isfinite(whole).all()


def test_errors():
    method = amed_predictor(D[None], LEVELS, Predictor())
    with pytest.raises(ValueError, match="3 steps need 4 states, this has shape \\(2, 3, 2\\)"):
        method.check({"path": jnp.ones((2, 3, 2))})
    with pytest.raises(ValueError, match="amed_predictor needs 'path' in every batch"):
        method.check({"start": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="strictly decrease"):
        amed_predictor(D[None], [1.0, 2.0], Predictor())
    with pytest.raises(TypeError, match="batch of states"):
        PredictedSampler(D[None], {}, Solve((*LEVELS,), Predictor())).sample(jnp.ones((2, 2), int))
