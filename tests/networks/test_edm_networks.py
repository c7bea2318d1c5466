"""EDM's and EDM2's networks: filters, magnitudes, options and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import distance, jit

from jaxdiff.networks import DhariwalUNet, EDM2UNet, SongUNet, from_linen, init, softmax_attention
from jaxdiff.networks.magnitude import (
    MPLayer,
    mp_concatenate,
    mp_silu,
    mp_sum,
    unit,
    unit_filters,
)
from jaxdiff.networks.resampling import BOX, doubled, halved

F32 = jnp.float32
SMALL = {
    "resolution": 8, "in_channels": 2, "channels": 8, "multipliers": (1, 2), "blocks": 1,
    "attention": (4,),
}  # fmt: skip
NETWORKS = {
    "song": SongUNet(**SMALL, num_classes=3, augment=2),
    "adm": DhariwalUNet(**SMALL, num_classes=3, augment=2, head_channels=8),
    "edm2": EDM2UNet(**SMALL, num_classes=3, head_channels=8),
}


def drawn(module, seed=0):
    """Parameters without zeros, in float32."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: init(module, key, (8, 8, 2)), jax.random.key(0))
    return jax.tree.map(lambda p: np.asarray(0.3 * rng.standard_normal(p.shape), p.dtype), shapes)


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0), (0.5, 2.0, 1.0, 3.0)])
def test_filters_are_each_others_transpose(rng, taps):
    """The box is a mean and a repetition; others keep constants within the borders."""
    x, y = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((2, 4, 4, 3))
    both = jit(lambda x, y: (halved(x, taps), doubled(y, taps)))
    low, high = both(x, y)
    np.testing.assert_allclose(np.sum(low * y), np.sum(x * high) / 4, rtol=1e-12)
    if taps == BOX:
        np.testing.assert_allclose(low, x.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4)), rtol=1e-12)
        np.testing.assert_allclose(high, y.repeat(2, axis=1).repeat(2, axis=2), rtol=1e-12)
    else:
        low, high = both(np.ones_like(x), np.ones_like(y))
        np.testing.assert_allclose(low[:, 1:-1, 1:-1], 1, rtol=1e-12)
        inner = high[:, 2:-2, 2:-2].reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(inner, 1, rtol=1e-12)


@pytest.mark.slow
def test_magnitudes_are_preserved(rng):
    """Of independent normal numbers, each operation of EDM2's keeps the mean square, 1."""
    size = lambda x: float(jnp.mean(jnp.square(x)))  # noqa: E731
    a, b = (jnp.asarray(rng.standard_normal((64, 8, 8, n)), F32) for n in (16, 48))
    layer = MPLayer(64, 0, F32)
    kernel = np.asarray(5 * rng.standard_normal((16, 64)), np.float32)
    mapped = layer.apply({"params": {"kernel": kernel}}, a)
    joined = mp_concatenate(a, b, 0.3)
    for made in (mp_silu(b), mp_sum(a, b[..., :16], 0.3), unit(3 * a, (-1,)), mapped, joined):
        assert abs(size(made) - 1) < 0.03
    # the parts of a concatenation are as 1 - t to t
    assert abs(size(joined[..., :16]) * 16 / (size(joined[..., 16:]) * 48) - (7 / 3) ** 2) < 0.2
    assert np.isfinite(jax.grad(lambda x: jnp.sum(unit(x, (-1,))))(jnp.zeros((1, 4)))).all()


def test_unit_filters_change_no_gain(rng):
    params = {
        "gain": np.float32(0.3), "conv_in": {"kernel": rng.standard_normal((3, 3, 4, 6))},
        "features": {"phases": rng.standard_normal(4)},
    }  # fmt: skip
    made = jit(unit_filters)(params)
    kernel = made["conv_in"]["kernel"]
    np.testing.assert_allclose(np.mean(np.square(kernel), axis=(0, 1, 2)), 1, rtol=1e-3)
    assert made["gain"] == params["gain"]
    np.testing.assert_array_equal(made["features"]["phases"], params["features"]["phases"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_options_do_not_change_the_numbers(name):
    """remat, vmap over another axis, an attention given at the call, full outputs; bfloat16 does,
    a little.
    """
    module, rng = NETWORKS[name], np.random.default_rng(1)
    params, network = drawn(module), from_linen(module)
    x, label = rng.standard_normal((4, 8, 8, 2)).astype(np.float32), np.full(4, 0.3, np.float32)
    classes, places = np.array([0, 1, 2, 3]), []

    def noted(q, k, v, place):
        places.append(place)
        return softmax_attention(q, k, v, place)

    half = from_linen(module.clone(dtype=jnp.bfloat16))
    again = from_linen(module.clone(remat=True))
    rows = jax.vmap(
        lambda x, l, c: network(params, x[None], l[None], c[None])[0], in_axes=(1, 0, 0)
    )

    @jax.jit
    def everything(x):
        full = network(params, x, label, classes, full=True)
        others = (
            network(params, x, label, classes, attention=noted),
            again(params, x, label, classes),
            rows(jnp.moveaxis(x, 0, 1), label, classes),
        )
        along = lambda f: jax.jvp(lambda x: f(params, x, label, classes), (x,), (1 + 0 * x,))[1]  # noqa: E731
        derivatives = along(network), along(again)
        return full, others, half(params, x, label, classes), derivatives

    full, others, low, derivatives = everything(x)
    for other in others:
        assert distance(other, np.asarray(full.value)) < 2e-5
    assert distance(derivatives[1], np.asarray(derivatives[0])) < 2e-5
    assert low.dtype == F32 and 1e-4 < distance(low, np.asarray(full.value)) < 0.1
    assert len(full.features) == 10
    assert len({place.path for place in places}) == len(places)
    assert {p.stage for p in places} == {"down_1", "middle", "up_1"}
    assert (full.log_variance is None) == (name != "edm2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["song", "adm"])
def test_two_labels_and_a_log_variance(name):
    """For students with two labels."""
    module = NETWORKS[name].clone(log_variance=True)
    network = from_linen(module)
    draw = lambda key: init(module, key, (8, 8, 2), labels=2)  # noqa: E731
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(draw, jax.random.key(0))
    params = jax.tree.map(lambda p: 0.3 * rng.standard_normal(p.shape).astype(p.dtype), shapes)
    x, t = np.ones((2, 8, 8, 2), np.float32), np.array([[0.2, 0.1], [0.2, 0.4]], np.float32)
    out = jit(lambda t: network(params, x, t, full=True))(t)
    assert distance(out.value[0], np.asarray(out.value[1])) > 1e-3
    assert out.log_variance.shape == (2,)


@pytest.mark.slow
def test_a_fresh_network_is_the_zero_function():
    for name in ("adm", "edm2"):
        params = init(NETWORKS[name], jax.random.key(0), (8, 8, 2))
        last = params["gain"] if name == "edm2" else params["conv_out"]["kernel"]
        assert not np.asarray(last).any()


@pytest.mark.parametrize(
    "module, x, label, message",
    [
        (NETWORKS["song"], (2, 8, 8, 3), (2,), r"takes x \(batch, 8, 8, 2\)"),
        (NETWORKS["adm"], (2, 4, 4, 2), (2,), r"takes x \(batch, 8, 8, 2\)"),
        (NETWORKS["edm2"], (2, 8, 8, 2), (3,), r"label \(batch,\); got"),
        (NETWORKS["edm2"], (2, 8, 8, 2), (2, 2), "one label for each image"),
        (NETWORKS["song"].clone(encoder="residue"), (2, 8, 8, 2), (2,), "encoder is one of"),
        (NETWORKS["song"].clone(multipliers=(1,) * 5), (2, 8, 8, 2), (2,), "halved 4 times"),
        (NETWORKS["adm"].clone(head_channels=5), (2, 8, 8, 2), (2,), "heads do not divide 16"),
    ],
)
def test_what_does_not_fit_is_refused(module, x, label, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.ones(x), jnp.ones(label)))
