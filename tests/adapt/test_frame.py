"""An adapted network is a network; what is frozen keeps its bits."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.adapt import (
    Adapted,
    Partly,
    adapted,
    adapter_only,
    check_adapter,
    matching,
    merged,
    moved,
    paths,
    trainable,
)
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student, score_matching
from jaxdiff.training.ema import constant
from jaxdiff.training.step import init_state, update

W = jnp.asarray([[0.5, -0.0], [0.25, 1.0]], jnp.float32)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Every entry times 1 + its own number."""

    def init(self, key, base):
        return jax.tree.map(jnp.zeros_like, base)

    def apply(self, base, small):
        return jax.tree.map(lambda w, s: w * (1 + s), base, small)


def network(params, x, label, cond=None, *, key=None):
    return x @ params["w"] + params["b"][None] * label[:, None]


def base():
    return {"w": W, "b": jnp.asarray([0.1, -0.2], jnp.float32)}


def data(step=0):
    return {"image": np.random.default_rng(step).normal(size=(4, 2)).astype(np.float32)}


def test_training_moves_the_adapter_alone():
    D = denoiser(network, base())
    start = adapted(D, Scaled())
    x = jnp.asarray(data()["image"])
    np.testing.assert_array_equal(start(x, 1.0), D(x, 1.0))
    optimiser = adapter_only(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)))
    student = Student.of(start, optimiser=optimiser, ema={"slow": constant(0.7)})
    method = score_matching(student)
    first = state = init_state(method, jax.random.key(0))
    step = jax.jit(lambda state, batch: update(method, state, batch, ("student",)))
    for number in range(3):
        state, _ = step(state, data(number))
    for kept in (state.params["student"]["base"], state.ema["student"]["slow"]["base"]):
        for name, w in kept.items():
            assert w.tobytes() == base()[name].tobytes()
    small = state.params["student"]["adapter"]
    assert all(np.abs(s).min() > 0.01 for s in (small["b"], small["w"][0, 0]))
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(first.opt_state))
    assert count <= 2 * 6 + 1  # two moments of each of the adapter's numbers, and a counter
    trained = student.denoiser(state.params["student"])
    whole = merged(trained)
    assert whole.func.apply is network
    np.testing.assert_array_equal(whole(x, 1.0), trained(x, 1.0))
    assert np.abs(trained(x, 1.0) - D(x, 1.0)).max() > 1e-3


def test_parameters_by_their_paths():
    optimiser = trainable(optax.sgd(1.0), "b")
    grads = jax.tree.map(jnp.ones_like, base())
    state = optimiser.init(base())
    updates, _ = optimiser.update(grads, state, base())
    after = optax.apply_updates(base(), updates)
    assert after["w"].tobytes() == W.tobytes()
    np.testing.assert_allclose(after["b"], base()["b"] - 1)
    tree = {"up": [{"kernel": 0.0}, {"bias": 0.0}], "out": {"kernel": 0.0}}
    assert paths(tree) == ["out/kernel", "up/0/kernel", "up/1/bias"]
    for pattern, found in [
        ("*kernel", [True, True, False]),
        (re.compile(r"up/\d/.*"), [False, True, True]),
        (("out/*", "*bias"), [True, False, True]),
    ]:
        assert jax.tree.leaves(matching(tree, pattern)) == found
    with pytest.raises(ValueError, match=r"no parameter fits 'x\*'; there are out/kernel"):
        matching(tree, "x*")


def test_a_gradient_of_some_parameters():
    x, label = jnp.ones((2, 2), jnp.float32), jnp.ones(2, jnp.float32)
    whole = jax.grad(lambda p: network(p, x, label).sum())(base())
    part = jax.grad(lambda p: Partly(network, "w")(p, x, label).sum())(base())
    np.testing.assert_array_equal(part["w"], whole["w"])
    np.testing.assert_array_equal(part["b"], 0)
    both = {"base": base(), "adapter": Scaled().init(None, base())}
    grad = jax.grad(lambda p: Adapted(network, Scaled())(p, x, label).sum())(both)
    np.testing.assert_array_equal(grad["base"]["w"], 0)
    np.testing.assert_allclose(grad["adapter"]["w"], whole["w"] * W)


def test_wrong_parameters_are_named():
    with pytest.raises(
        ValueError, match=r'are {"base": ..., "adapter": ...}.*got \[\'b\', \'w\'\]'
    ):
        Adapted(network, Scaled())(base(), data()["image"], np.zeros(4))
    with pytest.raises(TypeError, match="without guidance"):
        adapted(lambda y, s, cond=None: y, Scaled())
    with pytest.raises(TypeError, match="not an Adapted one"):
        merged(denoiser(network, base()))
    with pytest.raises(ValueError, match=r"this base: w has shape \(2, 3\), where \(2, 2\) is"):
        check_adapter(Scaled(), base(), {"w": np.zeros((2, 3)), "b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"b is absent, where \(2,\) is wanted"):
        check_adapter(Scaled(), base(), {"w": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"x has shape \(2,\), where there is no such parameter"):
        check_adapter(Scaled(), base(), {**base(), "x": np.zeros(2)})


def test_the_level_at_which_a_denoiser_is_the_identity_stays():
    # of a consistency model
    D = denoiser(network, base(), sigma_min=0.5)
    x = jnp.asarray(data()["image"])
    made = adapted(D, Scaled())
    for own in (made, merged(made), moved(made, base())):
        np.testing.assert_array_equal(own(x, 0.5), x)
        np.testing.assert_array_equal(own(x, 2.0), D(x, 2.0))


def test_an_adapter_that_is_one_array_is_trained():
    state = adapter_only(optax.sgd(1.0)).init({"base": base(), "adapter": W})
    changes = {"base": jax.tree.map(jnp.ones_like, base()), "adapter": jnp.ones_like(W)}
    made, _ = adapter_only(optax.sgd(1.0)).update(changes, state)
    np.testing.assert_array_equal(made["adapter"], -jnp.ones_like(W))
    np.testing.assert_array_equal(made["base"]["w"], jnp.zeros_like(W))
