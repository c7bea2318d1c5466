"""The attention of a network, seen and replaced from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import conditioned, denoiser
from jaxdiff.networks import (
    MLP,
    DiT,
    Place,
    UNet,
    attention_weights,
    from_linen,
    init,
    softmax_attention,
    unet,
)
from jaxdiff.networks.temporal import temporal

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE = (8, 4, 2)
X = np.random.default_rng(1).standard_normal((3, *SHAPE))
LABEL = np.array([0.1, 0.4, 0.7])
U_NET = UNet(8, (1, 2), 1, (8, 4), 2, groups=4, embedding=8, num_classes=2)
TRANSFORMER = DiT(4, 8, 2, 2, num_classes=2)
PLACES = {
    U_NET: [
        Place("Attention_0", "self", (8, 4), "down_0"),
        Place("Attention_1", "self", (4, 2), "down_1"),
        Place("Attention_2", "self", (4, 2), "middle"),
        Place("Attention_3", "self", (4, 2), "up_1"),
        Place("Attention_4", "self", (8, 4), "up_0"),
    ],
    TRANSFORMER: [
        Place("Block_0", "self", (2, 1), "block_0"),
        Place("Block_1", "self", (2, 1), "block_1"),
    ],
}


def random_params(module, labels=1, shape=SHAPE):
    """Parameters without zeros, in float64, made without compiling anything."""
    draw = lambda key: init(module, key, shape, labels=labels)  # noqa: E731
    rng = np.random.default_rng(0)
    like = jax.eval_shape(draw, jax.random.key(0))
    return jax.tree.map(lambda p: 0.3 * rng.standard_normal(p.shape), like)


def average(q, k, v, place):
    """Every query gets the plain average of the values."""
    return jnp.broadcast_to(jnp.mean(v, axis=1, keepdims=True), v.shape)


def kept(call, *arguments, **options):
    """The output of a call, and the attention maps of all its layers in their order."""
    places, maps = [], {}

    def keep(q, k, v, place):
        places.append(place)
        maps[place.path] = attention_weights(q, k)
        return softmax_attention(q, k, v, place)

    out = call(*arguments, attention=keep, **options)
    return out, maps, places


@pytest.mark.parametrize("module", PLACES, ids=["unet", "dit"])
def test_every_layer_is_seen_once_by_name_and_the_output_is_the_same_bit_for_bit(module):
    network, params, seen = from_linen(module), random_params(module), []

    @jit
    def run(params):
        out, maps, places = kept(network, params, X, LABEL)
        seen.extend(places)
        default = network(params, X, LABEL, attention=softmax_attention)
        return network(params, X, LABEL), default, out, maps

    plain, default, out, maps = run(params)
    assert seen == PLACES[module]
    np.testing.assert_array_equal(default, plain)
    np.testing.assert_array_equal(out, plain)
    assert list(maps) == sorted(place.path for place in seen) and set(maps) < set(params)
    for place in seen:
        tokens = place.grid[0] * place.grid[1]
        assert maps[place.path].shape == (3, 2, tokens, tokens)
        np.testing.assert_allclose(np.sum(maps[place.path], axis=-1), 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    "module", [pytest.param(U_NET, marks=pytest.mark.slow), TRANSFORMER], ids=["unet", "dit"]
)
def test_at_construction_or_at_a_call_it_replaces_every_layer(module):
    params, own = random_params(module), module.clone(attention_fn=average)

    @jit
    def run(params):
        given = from_linen(module)(params, X, LABEL, attention=average)
        back = from_linen(own)(params, X, LABEL, attention=softmax_attention)
        plain = from_linen(module)(params, X, LABEL)
        return plain, back, given, from_linen(own)(params, X, LABEL)

    plain, back, given, made = run(params)
    np.testing.assert_array_equal(made, given)
    np.testing.assert_array_equal(back, plain)
    assert np.max(np.abs(given - plain)) > 1e-3


def test_one_layer_by_hand():
    module = unet.Attention(2, 1, jnp.float64, jnp.float64)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: rng.standard_normal(p.shape), like)
    out = jit(lambda p: module.apply({"params": p}, x, average))(params)
    h = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    h = (h * params["Norm_0"]["scale"] + params["Norm_0"]["bias"]).reshape(6, 4)
    dense = lambda i, h: h @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]  # noqa: E731
    v = dense(0, h)[:, 8:]
    mixed = dense(1, np.broadcast_to(v.mean(axis=0), (6, 4)))
    np.testing.assert_allclose(out, x + mixed.reshape(x.shape), rtol=1e-9)


@pytest.mark.parametrize("remat", [False, True])
def test_an_attention_with_arrays_has_a_gradient(remat):
    """A share of softmax and average, d/dshare by a difference; also within remat."""
    network = from_linen(TRANSFORMER.clone(remat=remat))
    params, paths = random_params(TRANSFORMER), []

    def blend(share, q, k, v, place):
        paths.append(place.path)
        s = share[place.path]
        return (1 - s) * softmax_attention(q, k, v) + s * average(q, k, v, place)

    def loss(share):
        return jnp.sum(network(params, X, LABEL, attention=Partial(blend, share)) ** 2)

    share = {"Block_0": jnp.array(0.3), "Block_1": jnp.array(0.6)}
    slope = jit(jax.grad(loss))(share)
    assert paths[:2] == ["Block_0", "Block_1"]
    value = jit(loss)
    for path, s in share.items():
        up, down = (value({**share, path: s + h}) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(slope[path], (up - down) / 2e-5, rtol=1e-6)


def test_maps_come_out_of_a_gradient():
    network, params = from_linen(TRANSFORMER), random_params(TRANSFORMER)

    def loss(params):
        out, maps, _ = kept(network, params, X, LABEL)
        return jnp.sum(out**2), maps

    gradient, maps = jit(jax.grad(loss, has_aux=True))(params)
    assert set(maps) == {"Block_0", "Block_1"} and np.max(np.abs(gradient["Dense_0"]["kernel"])) > 0


def test_through_denoisers_and_guidance():
    network, params = from_linen(TRANSFORMER), random_params(TRANSFORMER)
    D = denoiser(network, params)
    guided, classes, seen = classifier_free(D, 2.0), np.array([0, 1, 1]), []

    @jit
    def run(D, guided):
        out, _, places = kept(guided, X, 0.7, classes)
        seen.extend(place.path for place in places)
        return guided(X, 0.7, classes), out, D(X, 0.7, classes, attention=average)

    plain, out, replaced = run(D, guided)
    np.testing.assert_array_equal(out, plain)
    assert seen == ["Block_0", "Block_1"] * 2  # with the class, then without
    bound = jit(lambda D: D(X, 0.7, classes))  # the attention is part of an argument
    for attention in (average, Partial(average)):
        np.testing.assert_array_equal(bound(conditioned(D, attention=attention)), replaced)


def test_a_network_of_trajectories_passes_it_on():
    network, params = temporal(
        from_linen(TRANSFORMER), random_params(TRANSFORMER, labels=2), SHAPE, modes=1
    )
    x, label = np.stack([X, -X], axis=1), np.tile([1.0, 0.6, 0.2], (3, 1))
    (out, maps, places), default = jax.eval_shape(
        lambda p: (kept(network, p, x, label)[:2] + ([],), network(p, x, label)), params
    )
    assert out.shape == default.shape == x.shape and places == []
    assert maps["Block_1"].shape == (6, 2, 2, 2)


@pytest.mark.parametrize(
    "module, attention, kind, message",
    [
        (TRANSFORMER, lambda q, k, v, place: v[:, :1], ValueError, "Block_0 must return float64"),
        (U_NET, lambda q, k, v, place: v[..., 0], ValueError, r"returned float64\[3, 32, 2\]"),
        (U_NET, lambda q, k, v, place: v.astype(jnp.float32), ValueError, "returned float32"),
        (U_NET, lambda q, k, v, place: None, ValueError, "at Attention_0 .* returned NoneType"),
        (U_NET, "softmax", TypeError, "must be a function .* got 'softmax'"),
        (U_NET.clone(attention=()), average, ValueError, "without attention layers"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(module, attention, kind, message):
    network, params = from_linen(module), random_params(module)
    with pytest.raises(kind, match=message):
        jax.eval_shape(lambda p: network(p, X, LABEL, attention=attention), params)


def test_a_network_without_attention_does_not_take_it():
    module, x = MLP(8, 1), X.reshape(3, -1)
    params = random_params(module, shape=x.shape[1:])
    with pytest.raises(TypeError, match="unexpected keyword argument 'attention'"):
        jax.eval_shape(lambda p: from_linen(module)(p, x, LABEL, attention=average), params)


def test_a_masked_key_is_not_seen_and_a_query_that_sees_none_is_finite():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 5, 3, 4)) for _ in range(3))
    seen = np.array([[True] * 3 + [False] * 2, [False] * 5])
    place = Place("", "cross", (5,), "", mask=seen[:, None, None, :])
    out = softmax_attention(q, k, v, place)
    np.testing.assert_allclose(out[0], softmax_attention(q, k[:, :3], v[:, :3])[0], rtol=1e-12)
    np.testing.assert_allclose(out[1], softmax_attention(q, k, v)[1], rtol=1e-8)
    causal = np.tril(np.ones((5, 5), bool))[None, None]
    first = softmax_attention(q, k, v, place._replace(mask=causal))[:, 0]
    np.testing.assert_allclose(first, v[:, 0], rtol=1e-12)
