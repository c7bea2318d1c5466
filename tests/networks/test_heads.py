"""Heads on features and the critic of pairs: shapes, and what their logits depend on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.critic import pair_critic
from jaxdiff.networks.heads import FeatureHead, feature_head
from jaxdiff.networks.mlp import MLP
from jaxdiff.typing import Outputs

KEY = jax.random.key(3)
CLASSES = 2
COND = jnp.asarray([0, 1, 2, 0, 1], jnp.int32)


def shows(params, x, label, cond=None, *, full=False):
    """Two maps of an image, one of them at half its size, and a vector."""
    half = x[:, ::2, ::2] * params
    small = jnp.concatenate([half, half**2, -half], axis=-1)
    vector = jnp.mean(x, axis=(1, 2))
    return Outputs(x, None, (x + params, small, jnp.tile(vector, (1, 5)))) if full else x


def features(seed=0):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(5, 4, 4, 1)), jnp.float32)
    return shows(jnp.float32(0.3), x, None, full=True).features


def made(**options):
    """A head on the maps of an image (4, 4, 1), and a draw of its parameters."""
    logits, init = feature_head(shows, jnp.float32(0.3), (4, 4, 1), width=8, **options)
    return jax.jit(logits), jax.jit(init)(KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "which, positions, layers",
    [
        (None, [16, 4, 1], [(3, 3, 1, 8), (3, 3, 3, 8), (5, 8)]),
        ((-1, 1), [1, 4], [(5, 8), (3, 3, 3, 8)]),
    ],
)
def test_a_head_gives_a_logit_per_position(which, positions, layers):
    """Of each map that is looked at, in the order requested; each has layers of its own."""
    logits, params = made(which=which)
    found = logits(params, features())
    assert found.shape == (5, sum(positions))
    kernels = [p["kernel"].shape for k, p in params.items() if k[:4] in ("Conv", "Dens")]
    assert sorted(s for s in kernels if s != (8, 1)) == sorted(layers)
    assert kernels.count((8, 1)) == len(positions)
    # a map says something of its own positions alone, all the others nothing
    ends = np.cumsum([0, *positions])
    order = range(3) if which is None else [i % 3 for i in which]
    for i, start, end in zip(order, ends, ends[1:], strict=False):
        moved = list(features())
        moved[i] = moved[i] * 2 + 1
        same = np.asarray(logits(params, moved) == found)
        assert not same[:, start:end].any()
        assert same[:, :start].all() and same[:, end:].all()


@pytest.mark.slow
def test_a_logit_is_two_layers_of_its_features():
    """W2 silu(norm(W1 f)) of a vector, with the projection of the class in it."""
    logits, params = made(which=(2,), num_classes=CLASSES)
    params = jax.tree.map(np.asarray, params)
    h = np.asarray(features()[2]) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    h = np.asarray(nn.silu(h))
    plain = h @ params["Dense_1"]["kernel"][:, 0] + params["Dense_1"]["bias"]
    rows = params["Embed_0"]["embedding"]

    def projected(cond):
        return (h * rows[cond]).sum(1) / np.sqrt(h.shape[1])

    found = logits(params, features(), COND)
    np.testing.assert_allclose(found[:, 0], plain + projected(COND), rtol=2e-4, atol=2e-6)
    no_class = logits(params, features(), None)
    np.testing.assert_allclose(no_class[:, 0], plain + projected(CLASSES), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("which", [(0,), (2,)])
def test_classes_are_projected_on_every_position(which):
    logits, params = made(which=which, num_classes=CLASSES)
    one, other = (logits(params, features(), cond) for cond in (COND, (COND + 1) % 3))
    assert np.asarray(one != other).mean() > 0.9
    assert params["Embed_0"]["embedding"].shape == (CLASSES + 1, 8)
    plain, own = made(which=which)
    assert "Embed_0" not in own
    np.testing.assert_array_equal(plain(own, features(), COND), plain(own, features()))


def test_an_image_is_seen_by_convolutions():
    """A logit depends on what is next to it, and on nothing two away."""
    logits, params = made(which=(0,))
    x = jnp.zeros((1, 4, 4, 1), jnp.float32)
    moved = logits(params, [x.at[0, 0, 0].set(1.0)]) != logits(params, [x])
    np.testing.assert_array_equal(
        np.asarray(moved).reshape(4, 4), np.outer([1, 1, 0, 0], [1, 1, 0, 0]).astype(bool)
    )


def test_heads_are_drawn_anew_and_say_what_is_missing():
    logits, init = feature_head(shows, jnp.float32(0.3), (4, 4, 1), width=8)
    draw = jax.jit(init)
    draws = [draw(jax.random.key(i)) for i in (0, 0, 1)]
    jax.tree.map(np.testing.assert_array_equal, draws[0], draws[1])
    assert (draws[0]["Dense_0"]["kernel"] != draws[2]["Dense_0"]["kernel"]).any()
    _, wide = feature_head(shows, jnp.float32(0.3), (4, 4, 1), which=(2,))
    assert FeatureHead().width == 64
    assert jax.eval_shape(wide, KEY)["Dense_0"]["kernel"].shape == (5, 64)
    for wrong in ((3,), (0, -4)):
        with pytest.raises(ValueError, match="3 maps of features, not all of"):
            feature_head(shows, jnp.float32(0.3), (4, 4, 1), which=wrong)
    feature_head(shows, jnp.float32(0.3), (4, 4, 1), which=(-3, 2))


# the critic of pairs

SMALL = {"width": 8, "depth": 1, "embedding": 8}


def pairs(shape=(2, 3)):
    draw = np.random.default_rng(1).normal
    y_s, y_t = (jnp.asarray(draw(size=(5, *shape)), jnp.float32) for _ in range(2))
    s, t = jnp.asarray([0, 0.2, 0.5, 1.0, 3.0], jnp.float32), jnp.linspace(4.0, 9.0, 5)
    return y_s, y_t, t.astype(jnp.float32), s


def stirred(params):
    """Parameters away from the start, where the perceptron is the zero function."""
    leaves, structure = jax.tree.flatten(params)
    draw = np.random.default_rng(2).normal
    return structure.unflatten([p + 0.3 * draw(size=p.shape).astype(p.dtype) for p in leaves])


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [0, CLASSES])
def test_a_critic_of_pairs_sees_both_in_unit_variance_and_the_earlier_level(num_classes):
    logits, init = pair_critic((2, 3), num_classes=num_classes, sigma_data=0.7, **SMALL)
    params = stirred(init(KEY))
    y_s, y_t, t, s = pairs()
    scaled = [y.reshape(5, 6) / jnp.sqrt(r**2 + 0.49)[:, None] for y, r in ((y_s, s), (y_t, t))]
    network = from_linen(MLP(num_classes=num_classes, label_scale=16.0, **SMALL))
    cond = COND if num_classes else None
    out = network(params["network"], jnp.concatenate(scaled, axis=1), jnp.log(t) / 4, cond)
    found = logits(params, y_s, (y_t, t, s, COND))
    assert found.shape == (5,)
    np.testing.assert_allclose(found, out @ params["mix"], rtol=1e-4)
    given = (y_t, t, s, (COND + 1) % 3)
    assert (np.asarray(logits(params, y_s, given) != found)).all() == bool(num_classes)


def test_a_critic_of_pairs_depends_on_all_its_inputs():
    logits, init = pair_critic((2, 3), **SMALL)
    logits, params = jax.jit(logits), stirred(jax.jit(init)(KEY))
    y_s, y_t, t, s = pairs()
    found = logits(params, y_s, (y_t, t, s, None))
    for other in (
        logits(params, y_s + 1, (y_t, t, s, None)),
        logits(params, y_s, (y_t + 1, t, s, None)),
        logits(params, y_s, (y_t, t + 1, s, None)),
        logits(params, y_s, (y_t, t, s + 1, None)),
        logits(params, y_t, (y_s, t, s, None)),
    ):
        assert (np.abs(other - found) > 1e-4).all()
    # of the earlier state's level in two ways: its scale, and as a label
    scaled = y_t * jnp.sqrt(((t + 1) ** 2 + 0.25) / (t**2 + 0.25))[:, None, None]
    assert (np.abs(logits(params, y_s, (scaled, t + 1, s, None)) - found) > 1e-5).all()
    # of the later one's in one: its scale
    scaled = y_s * jnp.sqrt(((s + 1) ** 2 + 0.25) / (s**2 + 0.25))[:, None, None]
    np.testing.assert_allclose(logits(params, scaled, (y_t, t, s + 1, None)), found, rtol=1e-4)


def test_a_critic_of_pairs_starts_undecided():
    logits, init = pair_critic((2, 3), **SMALL)
    y_s, y_t, t, s = pairs()
    start = jax.jit(init)(KEY)
    np.testing.assert_array_equal(jax.jit(logits)(start, y_s, (y_t, t, s, None)), 0.0)
    big, init = pair_critic((40, 50), **SMALL)
    draw = jax.jit(init)
    one, other = draw(jax.random.key(0))["mix"], draw(jax.random.key(1))["mix"]
    assert one.shape == (4000,) and (one != other).all()
    np.testing.assert_allclose(jnp.sum(one**2), 1.0, rtol=0.1)
