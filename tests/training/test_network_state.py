"""Networks with state besides their parameters: batch statistics in the one training loop."""

import json
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import multidevice_batch_norm as example
from helpers import scripts

from jaxdiff.denoisers import conditioned, denoiser, predictor
from jaxdiff.method import Method, Player, WithState
from jaxdiff.networks import from_linen, init, init_with_state
from jaxdiff.process import VP, time
from jaxdiff.training import checkpoint, fit, init_state, update

X = np.random.default_rng(0).standard_normal((8, 3))


def tracking(loss=None, state=None):
    """A player whose state is a running mean of its inputs, and one that follows that mean."""

    def track(params, context, batch, key):
        mean = context.network_state["first"]["mean"]
        away = jnp.sum((params - mean) ** 2)
        after = 0.9 * mean + 0.1 * jnp.mean(batch["x"], axis=0)
        return away, WithState({"away": away}, {"mean": after})

    def follow(params, context, batch, key):
        return jnp.sum((params - context.network_state["first"]["mean"]) ** 2), {}

    state = {"mean": jnp.array([1.0, 2.0, 3.0])} if state is None else state
    start = {"first": WithState(jnp.zeros(3), state), "second": jnp.zeros(3)}
    players = {
        "first": Player(loss or track, optax.sgd(0.5)),
        "second": Player(follow, optax.sgd(0.5)),
    }
    return Method(lambda key: start, players, lambda state: None)


def same(a, b):
    raw = lambda s: [*s[:4], *s[5:]]  # all but the key  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, raw(a), raw(b))


# --- the step


@pytest.mark.parametrize("parts", [1, 4])
def test_state_is_the_mean_of_what_the_parts_of_a_batch_return_and_later_players_see_it(parts):
    method = tracking()
    state = init_state(method, jax.random.key(0))
    before = np.array([1.0, 2.0, 3.0])
    new, metrics = update(method, state, {"x": X}, ("first", "second"), None, parts)
    after = 0.9 * before + 0.1 * X.mean(axis=0)
    np.testing.assert_allclose(new.network_state["first"]["mean"], after, rtol=1e-12)
    np.testing.assert_allclose(new.params["first"], before, rtol=1e-12)  # of the state before
    np.testing.assert_allclose(new.params["second"], after, rtol=1e-12)
    np.testing.assert_allclose(metrics["first/away"], np.sum(before**2), rtol=1e-12)
    idle, _ = update(method, state, {"x": X}, ("second",), None, parts)
    np.testing.assert_array_equal(idle.network_state["first"]["mean"], before)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    def data(step):
        return {"x": np.full_like(X, np.inf) if step == 1 else X}

    state = fit(tracking(), data, num_updates=3, nonfinite="skip", progress=False)
    assert int(state.skipped) == 1  # the loss is finite in all three, the state is not
    mean = 0.81 * np.array([1.0, 2.0, 3.0]) + 0.19 * X.mean(axis=0)
    np.testing.assert_allclose(state.network_state["first"]["mean"], mean, rtol=1e-12)
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(tracking(), data, num_updates=3, progress=False)


def returning(state):
    return lambda params, context, batch, key: (jnp.sum(params), WithState({}, state))


def forgetting(params, context, batch, key):
    return jnp.sum(params), {}


def plain(key):
    return {"first": jnp.zeros(3), "second": jnp.zeros(3)}


@pytest.mark.parametrize(
    "method, kind, message",
    [
        (tracking(returning({})), ValueError, r"\['mean'\] is absent, and was float64\[3\]"),
        (tracking(returning({"mean": X})), ValueError, r"is float64\[8, 3\], and was float64\[3\]"),
        (tracking(forgetting), ValueError, "'first' returns no state"),
        (tracking(returning({}))._replace(init=plain), ValueError, "'first' has no state"),
        (
            tracking(state={"count": jnp.array(0)}),
            TypeError,
            r"\['count'\] is int64: state",
        ),
    ],
)
def test_state_that_does_not_fit_is_refused_by_name(method, kind, message):
    def step():
        state = init_state(method, jax.random.key(0))
        return update(method, state, {"x": X}, ("first", "second"))

    with pytest.raises(kind, match=message):
        jax.eval_shape(step)


# --- checkpoints


def test_a_checkpoint_of_a_method_without_state_is_what_it_was(tmp_path):
    class Earlier(NamedTuple):
        step: Any
        params: Any
        opt_state: Any
        ema: Any
        key: Any
        skipped: Any

    loss = lambda params, context, batch, key: (jnp.sum(params), {})  # noqa: E731
    method = Method(lambda key: {"a": jnp.ones(2)}, {"a": Player(loss, optax.sgd(0.1))}, print)
    state = init_state(method, jax.random.key(0))
    assert state.network_state == {}
    checkpoint.save(tmp_path, 3, Earlier(*state[:6]))
    restored = checkpoint.restore(tmp_path, state).state
    assert type(restored) is type(state) and restored.network_state == {}
    same(restored, state)


def test_training_resumes_bit_for_bit(tmp_path):
    whole = example.train(4)
    example.train(2, checkpoint=tmp_path)
    same(example.train(4, checkpoint=tmp_path), whole)
    statistics = jax.tree.leaves(whole.network_state)
    assert len(statistics) == 4 and all(np.std(x) > 0 for x in statistics if x.size > 1)


# --- a classifier


def test_running_averages_are_those_of_the_images_and_are_used_in_evaluation():
    mean, variance = 0.0, 1.0
    state = example.train(80)
    for step in range(80):
        image = example.data(step)["image"].astype(float)
        mean = example.MOMENTUM * mean + (1 - example.MOMENTUM) * image.mean()
        variance = example.MOMENTUM * variance + (1 - example.MOMENTUM) * image.var()
    found = state.network_state["net"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(found["var"], variance, rtol=1e-4)
    held_out = example.data(1000)
    logits = jax.jit(example.classifier().sampler(state))
    together = logits(held_out["image"])
    alone = np.stack([logits(image[None])[0] for image in held_out["image"][:2]])
    np.testing.assert_allclose(alone, together[:2], rtol=1e-4, atol=1e-5)
    assert np.mean(np.argmax(np.asarray(together), axis=1) == held_out["label"]) > 0.9


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    difference = json.loads(scripts.last_line("multidevice_batch_norm.py", devices=8))
    ways = {"jit", "fsdp", "pmap", "resumed under pmap"}
    assert set(difference) == ways | {"mean of the devices' parts"}
    assert max(difference.values()) < 1e-5, difference


# --- networks


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, label, cond=None, *, deterministic=True, axis_name=None):
        h = nn.BatchNorm(deterministic, momentum=0.5, axis_name=axis_name)(x)
        h = nn.Dropout(0.5)(h, deterministic=deterministic)
        return h * label[:, None]


def test_a_linen_network_with_state():
    module, x, label = Normed(), np.float32(X), np.ones(8, np.float32)
    network = from_linen(module)
    params, state = init_with_state(module, jax.random.key(0), (3,))
    assert set(state) == {"batch_stats"}
    fresh = network(params, x, label, state=state)  # mean 0 and variance 1
    np.testing.assert_allclose(fresh, x / np.sqrt(1 + 1e-5), rtol=1e-5)
    out, after = network(params, x, label, state=state, key=jax.random.key(1))
    found = after["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], X.mean(axis=0) / 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], (1 + X.var(axis=0)) / 2, rtol=1e-4)
    kept = np.asarray(out) != 0
    normed = 2 * (X - X.mean(axis=0)) / np.sqrt(X.var(axis=0) + 1e-5)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(out[kept], normed[kept], rtol=1e-3, atol=1e-4)

    D = denoiser(network, params, prediction="x0")
    bound = conditioned(D, state=after)(x, 0.5)
    expected = network(params, x, 0.5 * label, state=after)
    np.testing.assert_allclose(bound, expected, rtol=1e-6)
    np.testing.assert_allclose(D(x, 0.5, state=state), 0.5 * np.asarray(fresh), rtol=1e-6)


@pytest.mark.parametrize("bind", [False, True])
def test_a_denoiser_in_training_returns_the_next_state_beside_its_output(bind):
    module, x, key = Normed(), np.float32(X), jax.random.key(1)
    network = from_linen(module)
    params, state = init_with_state(module, jax.random.key(0), (3,))
    level, stated = np.float32(0.5), {"state": state, "key": key}
    process = VP()
    for prediction in ("x0", "eps"):
        D = denoiser(network, params, prediction=prediction, process=process)
        out, after = (
            conditioned(D, state=state)(x, level, key=key) if bind else D(x, level, **stated)
        )
        t = time(process, level)
        seen = network(params, process.alpha(t) * x, np.full(8, t, np.float32), **stated)
        wanted = seen[0] if prediction == "x0" else x - level * seen[0]
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, after, seen[1])
    F = predictor(denoiser(network, params, prediction="eps", process=process), process, "eps")
    out, after = F(x, np.full(8, 0.3, np.float32), **stated)
    seen = network(params, x, np.full(8, 0.3, np.float32), **stated)
    jax.tree.map(np.testing.assert_array_equal, (out, after), seen)


def test_a_module_with_state_is_refused_where_it_has_no_place():
    key, network = jax.random.key(0), from_linen(Normed())
    with pytest.raises(ValueError, match=r"\['batch_stats'\] .* init_with_state gives both"):
        jax.eval_shape(lambda key: init(Normed(), key, (3,)), key)
    params, state = jax.eval_shape(lambda key: init_with_state(Normed(), key, (3,)), key)
    whole = {"params": params, **state}
    for given in ((whole, None), (params, whole)):
        with pytest.raises(ValueError, match="the others as state"):
            network(given[0], np.float32(X), np.ones(8), state=given[1])
